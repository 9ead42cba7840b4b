//! Filter flags as filters, with Hubble's meaning: a flag about either end makes two filters, one per end; `--not` sends
//! the next flag to the blacklist; namespaces complete the names of pods and Services that have none. The order of the
//! flags counts, so they are read by their place on the command line. Never sends anything.

use clap::{Arg, ArgAction, ArgMatches, Command, FromArgMatches, error::ErrorKind};

use super::flags::{CONFLICTS, FLAGS};
use crate::{
    event::TcpFlags,
    names::{EventType, TRACE_POINTS, reserved_identities},
    proto::flow::{
        DropReason, EventTypeFilter, FlowFilter, HttpHeader, IpVersion, NetworkInterface, TrafficDirection,
        Verdict, Workload, flow_filter::Experimental,
    },
};

/// All filter flags of a command line.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FilterArgs {
    white: Tracker,
    black: Tracker,
}

/// One list in the making: `left` or `right` is to match.
#[derive(Clone, Debug, Default, PartialEq)]
struct Tracker {
    left: FlowFilter,
    right: FlowFilter,
    used: Vec<&'static str>,
    namespaces: Vec<String>,
    from_namespaces: Vec<String>,
    to_namespaces: Vec<String>,
}

impl FilterArgs {
    /// The whitelist and the blacklist.
    pub fn lists(&self) -> (Vec<FlowFilter>, Vec<FlowFilter>) {
        (self.white.filters(), self.black.filters())
    }

    /// Of flags in their order; `--not` has an empty value.
    fn of<'a>(flags: impl IntoIterator<Item = (&'static str, &'a str)>) -> Result<Self, String> {
        let mut args = Self::default();
        let mut negated = false;
        for (name, value) in flags {
            if name == "not" {
                if negated {
                    return Err("consecutive --not statements".into());
                }
                negated = true;
                continue;
            }
            let tracker = if negated { &mut args.black } else { &mut args.white };
            negated = false;
            tracker.add(name, value)?;
        }
        if negated {
            return Err("trailing --not found in the arguments".into());
        }
        Ok(args)
    }
}

impl clap::Args for FilterArgs {
    fn augment_args(command: Command) -> Command {
        FLAGS.iter().fold(command.next_help_heading("Filters"), |command, flag| {
            let arg = Arg::new(flag.name).long(flag.name).help(flag.help).action(ArgAction::Append);
            let arg = match flag.short {
                Some(short) => arg.short(short),
                None => arg,
            };
            command.arg(match flag.value {
                Some(value) => arg.value_name(value),
                // Clap does not tell the places of plain flags.
                None => arg.num_args(0).default_missing_value(""),
            })
        })
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for FilterArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut flags: Vec<(usize, &'static str, &str)> = Vec::new();
        for flag in FLAGS {
            let values = matches.get_many::<String>(flag.name).into_iter().flatten();
            let places = matches.indices_of(flag.name).into_iter().flatten();
            flags.extend(places.zip(values).map(|(place, value)| (place, flag.name, value.as_str())));
        }
        flags.sort_unstable();
        let in_order = flags.into_iter().map(|(_, name, value)| (name, value));
        Self::of(in_order).map_err(|reason| clap::Error::raw(ErrorKind::ValueValidation, reason))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// Which field of which filter a flag about ends fills.
type Field<T> = fn(&mut FlowFilter) -> &mut Vec<T>;

impl Tracker {
    fn add(&mut self, name: &'static str, value: &str) -> Result<(), String> {
        self.used.push(name);
        self.check_conflicts()?;
        if !self.add_namespace(name, value) && !self.add_end(name, value)? {
            self.add_other(name, value)?;
        }
        self.check_namespaces()
    }

    fn check_conflicts(&self) -> Result<(), String> {
        for group in CONFLICTS {
            let mut used = group.iter().filter(|flag| self.used.contains(flag));
            if let (Some(one), Some(other)) = (used.next(), used.next()) {
                return Err(format!("filters --{one} and --{other} cannot be combined"));
            }
        }
        Ok(())
    }

    fn add_namespace(&mut self, name: &str, value: &str) -> bool {
        let (list, value) = match name {
            "namespace" => (&mut self.namespaces, value),
            "from-namespace" => (&mut self.from_namespaces, value),
            "to-namespace" => (&mut self.to_namespaces, value),
            "all-namespaces" => (&mut self.namespaces, ""),
            "from-all-namespaces" => (&mut self.from_namespaces, ""),
            "to-all-namespaces" => (&mut self.to_namespaces, ""),
            _ => return false,
        };
        list.push(value.to_owned());
        true
    }

    /// Flags of which there is one for each end and one for either.
    fn add_end(&mut self, name: &str, value: &str) -> Result<bool, String> {
        let (ends, what) = match name.split_once('-') {
            Some(("from", what)) => (Ends::Source, what),
            Some(("to", what)) => (Ends::Destination, what),
            _ => (Ends::Either, name),
        };
        let text = value.to_owned();
        match what {
            "fqdn" => self.put(ends, text, |f| &mut f.source_fqdn, |f| &mut f.destination_fqdn),
            "pod" => self.put(ends, text, |f| &mut f.source_pod, |f| &mut f.destination_pod),
            "ip" => self.put(ends, text, |f| &mut f.source_ip, |f| &mut f.destination_ip),
            "label" => self.put(ends, text, |f| &mut f.source_label, |f| &mut f.destination_label),
            "service" => self.put(ends, text, |f| &mut f.source_service, |f| &mut f.destination_service),
            "port" => self.put(ends, text, |f| &mut f.source_port, |f| &mut f.destination_port),
            "cluster" => {
                self.put(ends, text, |f| &mut f.source_cluster_name, |f| &mut f.destination_cluster_name);
            }
            "workload" => {
                let (kind, name) = value.split_once('/').unwrap_or(("", value));
                let workload = Workload { name: name.into(), kind: kind.into() };
                self.put(ends, workload, |f| &mut f.source_workload, |f| &mut f.destination_workload);
            }
            "identity" => {
                let number = identity(value)?;
                self.put(ends, number, |f| &mut f.source_identity, |f| &mut f.destination_identity);
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn put<T: Clone>(&mut self, ends: Ends, value: T, source: Field<T>, destination: Field<T>) {
        let (left, right) = match ends {
            Ends::Source => (source, source),
            Ends::Destination => (destination, destination),
            Ends::Either => (source, destination),
        };
        left(&mut self.left).push(value.clone());
        right(&mut self.right).push(value);
    }

    fn add_other(&mut self, name: &str, value: &str) -> Result<(), String> {
        let text = value.to_owned();
        match name {
            "uuid" => self.both(text, |f| &mut f.uuid),
            "node-name" => self.both(text, |f| &mut f.node_name),
            "node-label" => self.both(text, |f| &mut f.node_labels),
            "protocol" => self.both(text, |f| &mut f.protocol),
            "http-status" => self.both(text, |f| &mut f.http_status_code),
            "http-method" => self.both(text, |f| &mut f.http_method),
            "http-path" => self.both(text, |f| &mut f.http_path),
            "http-url" => self.both(text, |f| &mut f.http_url),
            "dns-query" => self.both(text, |f| &mut f.dns_query),
            "trace-id" => self.both(text, |f| &mut f.trace_id),
            "snat-ip" => self.both(text, |f| &mut f.source_ip_xlated),
            "ipv4" => self.both(IpVersion::IPv4.into(), |f| &mut f.ip_version),
            "ipv6" => self.both(IpVersion::IPv6.into(), |f| &mut f.ip_version),
            "ip-version" => self.both(ip_version(value)?.into(), |f| &mut f.ip_version),
            "encrypted" => self.both(true, |f| &mut f.encrypted),
            "unencrypted" => self.both(false, |f| &mut f.encrypted),
            "interface" => self.both(NetworkInterface { index: 0, name: text }, |f| &mut f.interface),
            "verdict" => {
                let verdict = Verdict::from_str_name(value).ok_or_else(|| invalid(name, value))?;
                self.both(verdict.into(), |f| &mut f.verdict);
            }
            "drop-reason-desc" => {
                let reason = DropReason::from_str_name(value).ok_or_else(|| invalid(name, value))?;
                self.both(reason.into(), |f| &mut f.drop_reason_desc);
            }
            "http-header" => {
                let (key, value) =
                    value.split_once(':').ok_or_else(|| invalid(name, value) + ", expected name:value")?;
                self.both(HttpHeader { key: key.into(), value: value.into() }, |f| &mut f.http_header);
            }
            "ip-trace-id" => {
                let id = value.parse().ok().filter(|id| *id > 0).ok_or_else(|| invalid(name, value))?;
                self.both(id, |f| &mut f.ip_trace_id);
            }
            "tcp-flags" => self.both(tcp_flags(value)?.into(), |f| &mut f.tcp_flags),
            "type" => self.both(event_type(value)?, |f| &mut f.event_type),
            "traffic-direction" => {
                let direction = match value.to_ascii_lowercase().as_str() {
                    "ingress" => TrafficDirection::Ingress,
                    "egress" => TrafficDirection::Egress,
                    _ => return Err(invalid(name, value) + ", expected ingress or egress"),
                };
                self.both(direction.into(), |f| &mut f.traffic_direction);
            }
            "cel-expression" => self
                .both(text, |f| &mut f.experimental.get_or_insert_with(Experimental::default).cel_expression),
            _ => return Err(format!("unknown filter --{name}")),
        }
        Ok(())
    }

    fn both<T: Clone>(&mut self, value: T, field: Field<T>) {
        self.put(Ends::Either, value, field, field);
    }

    /// A namespace flag and a name with another namespace contradict each other.
    fn check_namespaces(&self) -> Result<(), String> {
        for filter in [&self.left, &self.right] {
            let (source, destination) = (
                [&filter.source_pod, &filter.source_service],
                [&filter.destination_pod, &filter.destination_service],
            );
            let either = [source[0], source[1], destination[0], destination[1]];
            conflict(&self.namespaces, &either)?;
            conflict(&self.from_namespaces, &source)?;
            conflict(&self.to_namespaces, &destination)?;
            for [pods, services] in [source, destination] {
                let pod_namespaces = pods.iter().filter_map(|pod| namespace_of(pod));
                for pod in pod_namespaces {
                    if let Some(service) = services.iter().find(|service| namespace_of(service) != Some(pod))
                    {
                        return Err(format!("namespace of service {service:?} conflict with pod {pod:?}"));
                    }
                }
            }
        }
        Ok(())
    }

    fn filters(&self) -> Vec<FlowFilter> {
        if self.used.is_empty() {
            return Vec::new();
        }
        let (mut left, mut right) = (self.left.clone(), self.right.clone());
        for filter in [&mut left, &mut right] {
            complete(&self.to_namespaces, &mut filter.destination_pod, &mut filter.destination_service);
            complete(&self.from_namespaces, &mut filter.source_pod, &mut filter.source_service);
        }
        complete(&self.namespaces, &mut left.source_pod, &mut left.source_service);
        complete(&self.namespaces, &mut right.destination_pod, &mut right.destination_service);
        if left == right { vec![left] } else { vec![left, right] }
    }
}

#[derive(Clone, Copy, Debug)]
enum Ends {
    Source,
    Destination,
    Either,
}

/// Puts namespaces before names that have none; where there is no name, all of the namespace are meant.
fn complete(namespaces: &[String], pods: &mut Vec<String>, services: &mut Vec<String>) {
    if namespaces.is_empty() {
        return;
    }
    if pods.is_empty() && services.is_empty() {
        pods.push(String::new());
    }
    for names in [pods, services] {
        let with_all = |name: &String| -> Vec<String> {
            if name.contains('/') {
                return vec![name.clone()];
            }
            namespaces.iter().map(|namespace| format!("{namespace}/{name}")).collect()
        };
        *names = names.iter().flat_map(with_all).collect();
    }
}

fn conflict(namespaces: &[String], names: &[&Vec<String>]) -> Result<(), String> {
    for namespace in namespaces {
        for name in names.iter().flat_map(|names| names.iter()) {
            if namespace_of(name).is_some_and(|of_name| of_name != namespace) {
                return Err(format!("namespace conflict: {namespace:?} does not contain {name:?}"));
            }
        }
    }
    Ok(())
}

/// The namespace that a name says.
fn namespace_of(name: &str) -> Option<&str> {
    name.split_once('/').map(|(namespace, _)| namespace).filter(|namespace| !namespace.is_empty())
}

fn invalid(name: &str, value: &str) -> String {
    format!("invalid --{name} value: {value:?}")
}

fn identity(value: &str) -> Result<u32, String> {
    let reserved = reserved_identities().find(|(_, name)| *name == value).map(|(number, _)| number);
    reserved.or_else(|| value.parse().ok()).ok_or_else(|| {
        let names: Vec<&str> = reserved_identities().map(|(_, name)| name).collect();
        format!(
            "invalid security identity {value:?}, expected one of {} or a numeric value",
            names.join(", ")
        )
    })
}

fn ip_version(value: &str) -> Result<IpVersion, String> {
    match value.to_ascii_lowercase().as_str() {
        "4" | "v4" | "ipv4" | "ip4" => Ok(IpVersion::IPv4),
        "6" | "v6" | "ipv6" | "ip6" => Ok(IpVersion::IPv6),
        "none" => Ok(IpVersion::IpNotUsed),
        _ => Err(invalid("ip-version", value)),
    }
}

fn tcp_flags(value: &str) -> Result<TcpFlags, String> {
    value.split(',').try_fold(TcpFlags::default(), |all, name| {
        let flag = TcpFlags::ALL.into_iter().find(|(_, known)| known.eq_ignore_ascii_case(name));
        flag.map(|(flag, _)| all.with(flag)).ok_or_else(|| format!("unknown tcp flag: {name}"))
    })
}

fn event_type(value: &str) -> Result<EventTypeFilter, String> {
    let (kind, sub_type) = value.split_once(':').map_or((value, None), |(kind, sub)| (kind, Some(sub)));
    let known = EventType::ALL.into_iter().find(|(_, name)| *name == kind).map(|(known, _)| known as i32);
    let number = known.or_else(|| kind.parse().ok()).ok_or_else(|| {
        format!("unable to parse type {kind:?}, not a known type name and not a numeric value")
    })?;
    let mut filter = EventTypeFilter { r#type: number, match_sub_type: false, sub_type: 0 };
    if let Some(sub_type) = sub_type {
        let of_trace = number == EventType::Trace as i32;
        let point = TRACE_POINTS.iter().find(|(_, _, name)| of_trace && *name == sub_type);
        filter.match_sub_type = true;
        filter.sub_type =
            point.map(|(_, number, _)| i32::from(*number)).or_else(|| sub_type.parse().ok()).ok_or_else(|| {
                format!("unable to parse event sub-type {sub_type:?}, not a known sub-type name and not a numeric value")
            })?;
    }
    Ok(filter)
}
