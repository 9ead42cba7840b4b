//! Selectors, blocks and ports as the oracle reads them, with what is missing in words.

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use model::{Protocol, label_keys, policy::L4};

use super::Asked;
use crate::{read::PodReading, world::Owner};

pub(super) type LabelMap = BTreeMap<String, String>;

/// What labels lack; empty: they match. `Err`: the selector, or a part of it, has no meaning (what it has was looked at).
pub(super) type Lacks = Result<Vec<String>, (Vec<String>, String)>;

/// What of `selector` the labels do not meet.
pub(super) fn lacks(selector: &LabelSelector, labels: &LabelMap, of_pods: bool) -> Lacks {
    let (mut lacking, mut doubt) = (vec![], None);
    for (key, value) in selector.match_labels.iter().flatten() {
        if of_pods && unsupported(key) {
            doubt = Some(format!("label {key:?} is not supported"));
        } else if labels.get(key) != Some(value) {
            lacking.push(format!("{key}={value}"));
        }
    }
    for expression in selector.match_expressions.iter().flatten() {
        let key = &expression.key;
        let (value, values) = (labels.get(key), expression.values.clone().unwrap_or_default());
        let met = match expression.operator.as_str() {
            _ if key.is_empty() || (of_pods && unsupported(key)) => None,
            "In" if !values.is_empty() => Some(value.is_some_and(|value| values.contains(value))),
            "NotIn" if !values.is_empty() => Some(!value.is_some_and(|value| values.contains(value))),
            "Exists" if values.is_empty() => Some(value.is_some()),
            "DoesNotExist" if values.is_empty() => Some(value.is_none()),
            _ => None,
        };
        match met {
            Some(true) => {}
            Some(false) => lacking.push(format!("{key} {} {}", expression.operator, values.join(","))),
            None => doubt = Some(format!("{key:?} {} has no meaning", expression.operator)),
        }
    }
    match doubt {
        Some(doubt) => Err((lacking, doubt)),
        None => Ok(lacking),
    }
}

/// Labels of pods that identities do not have.
fn unsupported(key: &str) -> bool {
    let keyed = format!("{}{key}", label_keys::SOURCE);
    let fixed = [label_keys::NAMESPACE, label_keys::SERVICE_ACCOUNT, label_keys::CLUSTER];
    label_keys::PASSED_OVER.contains(&key)
        || fixed.contains(&keyed.as_str())
        || keyed.starts_with(label_keys::NAMESPACE_LABELS)
}

/// Whether a pod, by its namespace and labels, is one that is selected: `Ok(None)`: it is, otherwise why not.
pub(super) fn selected(
    asked: &Asked<'_>,
    namespaces: Option<&LabelSelector>,
    pods: Option<&LabelSelector>,
    own_namespace: &str,
) -> Result<Option<String>, String> {
    // What has no meaning has none for anybody.
    let nothing = LabelMap::new();
    for (selector, of_pods) in [(namespaces, false), (pods, true)] {
        if let Some(Err((_, doubt))) = selector.map(|selector| lacks(selector, &nothing, of_pods)) {
            return Err(doubt);
        }
    }
    let Owner::Pod(name) = &asked.other().owner else {
        return Ok(Some("selectors select pods only, none in a node's network".into()));
    };
    let (Some(pod), Some(labels)) = (asked.world.pods.get(name), asked.world.namespaces.get(&name.namespace))
    else {
        return Ok(Some(format!("nothing is known of {name}")));
    };
    let mut why = vec![];
    match namespaces {
        None if name.namespace != own_namespace => why.push(format!("is not in namespace {own_namespace}")),
        None => {}
        Some(selector) => {
            let lacking = lacks(selector, labels, false).map_err(|(_, doubt)| doubt)?;
            if !lacking.is_empty() {
                why.push(format!("namespace {} is not {}", name.namespace, lacking.join(", ")));
            }
        }
    }
    if let Some(selector) = pods {
        let lacking = lacks(selector, &pod.labels, true).map_err(|(_, doubt)| doubt)?;
        if !lacking.is_empty() {
            why.push(format!("pod {name} is not {}", lacking.join(", ")));
        }
    }
    Ok((!why.is_empty()).then(|| why.join("; ")))
}

/// Whether `address` is in `cidr` and in no hole. `Err`: a prefix that cannot be read.
pub(super) fn in_block(address: IpAddr, cidr: &str, holes: &[String]) -> Result<Option<String>, String> {
    let read = |text: &str| text.parse::<IpNet>().map_err(|_| format!("invalid prefix {text:?}"));
    let whole = read(cidr)?;
    let holes: Vec<IpNet> = holes.iter().map(|hole| read(hole)).collect::<Result<_, _>>()?;
    let same_bits = |net: &IpNet| {
        let (a, b) = match (address, net.addr()) {
            (IpAddr::V4(a), IpAddr::V4(b)) => (u128::from(a.to_bits()) << 96, u128::from(b.to_bits()) << 96),
            (IpAddr::V6(a), IpAddr::V6(b)) => (a.to_bits(), b.to_bits()),
            _ => return false,
        };
        (a ^ b).leading_zeros() >= u32::from(net.prefix_len())
    };
    if !same_bits(&whole) {
        return Ok(Some(format!("{address} is not in {cidr}")));
    }
    let hole = holes.iter().find(|hole| same_bits(hole));
    Ok(hole.map(|hole| format!("{address} is in {hole}, which is taken out of {cidr}")))
}

/// Numbers of the port of `pod` with that name.
pub(super) fn named(
    pod: Option<&PodReading>,
    name: &str,
    l4: L4,
    protocol: Option<Protocol>,
) -> Option<String> {
    let what = protocol.map_or(String::new(), |protocol| format!(" {protocol}"));
    let Some(pod) = pod else { return Some(format!("{name:?} is a port of pods only")) };
    let mut of_name = pod.ports.iter().filter(|port| port.name == name).peekable();
    if of_name.peek().is_none() {
        return Some(format!("the pod has no port {name:?}"));
    }
    let wanted: Vec<_> = of_name.filter(|port| protocol.is_none_or(|p| p == port.protocol)).collect();
    let hit = wanted.iter().any(|port| l4 == L4::Port(port.protocol, port.number));
    let numbers: Vec<_> = wanted.iter().map(|port| port.number.to_string()).collect();
    (!hit).then(|| format!("{name:?} is{what} port {} there", numbers.join(", ")))
}

/// Whether the ports from `first` to `last` are meant.
pub(super) fn in_range(l4: L4, protocol: Protocol, range: Option<(i32, i32)>) -> Option<String> {
    let text = match range {
        None => format!("any/{protocol}"),
        Some((first, last)) if first == last => format!("{first}/{protocol}"),
        Some((first, last)) => format!("{first}-{last}/{protocol}"),
    };
    let hit = match l4 {
        L4::Other => false,
        L4::Port(of, port) => {
            let within = |(first, last)| (first..=last).contains(&i32::from(port));
            of == protocol && range.is_none_or(within)
        }
    };
    (!hit).then(|| format!("{l4} is not {text}"))
}
