//! Addresses and ports of one Service: what it keeps, what it gets, what it loses with its type. Fills in the Service;
//! holds nothing, which only storing it does.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::{Value, json};

use super::Allocations;
use crate::{
    config::Entropy,
    meta::{self, Object, items, text},
    store::Key,
    validation::FieldErrors,
};

/// Completes a new Service, or the next state of an `old` one, with addresses and ports.
pub(crate) fn assign(
    allocations: &Allocations,
    entropy: &dyn Entropy,
    old: Option<&Object>,
    service: &mut Object,
    errors: &mut FieldErrors,
) {
    normalize_cluster_ips(old, service);
    if let Some(old) = old {
        keep_allocated(old, service);
        drop_with_type(old, service);
    }
    let asking = Asking { allocations, entropy, owner: Key::of(service) };
    if needs_cluster_ip(service) {
        families(allocations.cidrs(), service, errors);
        if errors.is_empty() {
            asking.cluster_ips(service, errors);
        }
    }
    if needs_node_ports(service) {
        asking.node_ports(service, errors);
    }
    if needs_health_check_port(service) {
        asking.health_check_port(service, errors);
    }
}

fn kind(service: &Object) -> &str {
    text(service, &["spec", "type"])
}

fn needs_cluster_ip(service: &Object) -> bool {
    matches!(kind(service), "ClusterIP" | "NodePort" | "LoadBalancer")
}

/// Whether the type has node ports at all; a LoadBalancer may go without.
fn may_have_node_ports(service: &Object) -> bool {
    matches!(kind(service), "NodePort" | "LoadBalancer")
}

fn needs_node_ports(service: &Object) -> bool {
    may_have_node_ports(service)
        && (kind(service) == "NodePort" || service["spec"]["allocateLoadBalancerNodePorts"] != false)
}

fn needs_health_check_port(service: &Object) -> bool {
    kind(service) == "LoadBalancer" && text(service, &["spec", "externalTrafficPolicy"]) == "Local"
}

fn is_headless(service: &Object) -> bool {
    text(service, &["spec", "clusterIP"]) == "None"
}

/// Brings `clusterIP` and `clusterIPs` in step: old clients know the first only.
fn normalize_cluster_ips(old: Option<&Object>, service: &mut Object) {
    let ip = text(service, &["spec", "clusterIP"]).to_owned();
    let ips = items(service, &["spec", "clusterIPs"]).to_vec();
    let spec = meta::member(service, "spec");
    let Some(old) = old else {
        if !ip.is_empty() && ips.is_empty() {
            spec.insert("clusterIPs".into(), json!([ip]));
        } else if ip.is_empty()
            && let Some(first) = ips.first()
        {
            spec.insert("clusterIP".into(), first.clone());
        }
        return;
    };
    let same_ips = ips == items(old, &["spec", "clusterIPs"]);
    let same_ip = ip == text(old, &["spec", "clusterIP"]);
    if ip.is_empty() && !same_ip && same_ips {
        spec.remove("clusterIPs");
    } else if !ip.is_empty() && ips.is_empty() {
        spec.insert("clusterIPs".into(), json!([ip]));
    } else if !same_ip && same_ips && !ips.is_empty() {
        let mut ips = ips;
        ips[0] = ip.into();
        spec.insert("clusterIPs".into(), ips.into());
    }
}

/// What an update leaves out stays as it was.
fn keep_allocated(old: &Object, service: &mut Object) {
    if needs_cluster_ip(old) && needs_cluster_ip(service) {
        for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
            if meta::is_empty(&service["spec"][field]) && !meta::is_empty(&old["spec"][field]) {
                service["spec"][field] = old["spec"][field].clone();
            }
        }
    }
    if may_have_node_ports(old) && may_have_node_ports(service) {
        keep_node_ports(old, service);
    }
    let field = "healthCheckNodePort";
    let port = old["spec"][field].clone();
    if needs_health_check_port(old)
        && needs_health_check_port(service)
        && unset(&service["spec"][field])
        && !unset(&port)
    {
        service["spec"][field] = port;
    }
}

fn keep_node_ports(old: &Object, service: &mut Object) {
    let used: Vec<Value> =
        items(service, &["spec", "ports"]).iter().map(|port| port["nodePort"].clone()).collect();
    let Some(Value::Array(ports)) = meta::member(service, "spec").get_mut("ports") else { return };
    for port in ports.iter_mut().filter(|port| unset(&port["nodePort"])) {
        let same = items(old, &["spec", "ports"]).iter().find(|other| {
            other["port"] == port["port"]
                && other["protocol"] == port["protocol"]
                && !unset(&other["nodePort"])
        });
        if let Some(same) = same
            && !used.contains(&same["nodePort"])
        {
            port["nodePort"] = same["nodePort"].clone();
        }
    }
}

/// Absent, null or the zero that Go clients send for it.
fn unset(port: &Value) -> bool {
    port.as_i64().unwrap_or(0) == 0
}

/// Wipes what the new type has no use for, if the client left it as it was.
fn drop_with_type(old: &Object, service: &mut Object) {
    let unchanged = |service: &Object, field: &str| service["spec"][field] == old["spec"][field];
    let mut drop = Vec::new();
    if needs_cluster_ip(old) && !needs_cluster_ip(service) && unchanged(service, "clusterIPs") {
        drop.extend(["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy", "internalTrafficPolicy"]);
    }
    if may_have_node_ports(old) && !may_have_node_ports(service) {
        drop.extend(["externalTrafficPolicy"].into_iter().filter(|field| unchanged(service, field)));
    }
    if needs_health_check_port(old) && !needs_health_check_port(service) {
        drop.extend(["healthCheckNodePort"].into_iter().filter(|field| unchanged(service, field)));
    }
    if kind(old) == "LoadBalancer" && kind(service) != "LoadBalancer" {
        let fields = ["allocateLoadBalancerNodePorts", "loadBalancerClass"];
        drop.extend(fields.into_iter().filter(|field| unchanged(service, field)));
    }
    let wipe_ports =
        may_have_node_ports(old) && !may_have_node_ports(service) && same_node_ports(old, service);
    let ended_balancing = kind(old) == "LoadBalancer" && kind(service) != "LoadBalancer";
    let spec = meta::member(service, "spec");
    for field in drop {
        spec.remove(field);
    }
    if wipe_ports && let Some(Value::Array(ports)) = spec.get_mut("ports") {
        for port in ports.iter_mut().filter_map(Value::as_object_mut) {
            port.remove("nodePort");
        }
    }
    if ended_balancing {
        meta::member(service, "status").insert("loadBalancer".into(), json!({}));
    }
}

fn same_node_ports(old: &Object, service: &Object) -> bool {
    let ports = |service: &Object| -> Vec<i64> {
        let mut ports: Vec<i64> = items(service, &["spec", "ports"])
            .iter()
            .map(|port| port["nodePort"].as_i64().unwrap_or(0))
            .collect();
        ports.sort_unstable();
        ports
    };
    ports(old) == ports(service)
}

fn family(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "IPv4" } else { "IPv6" }
}

/// Decides `ipFamilies` and `ipFamilyPolicy` from what the cluster has and the Service asks for.
fn families<'a>(cidrs: impl Iterator<Item = &'a IpNet>, service: &mut Object, errors: &mut FieldErrors) {
    let mut available: Vec<&str> = vec![];
    for family in cidrs.map(|cidr| family(cidr.addr())) {
        if !available.contains(&family) {
            available.push(family);
        }
    }
    let free_of_cluster = is_headless(service) && meta::is_empty(&service["spec"]["selector"]);
    let given: Vec<String> = strings(&service["spec"]["ipFamilies"]);
    let ips: Vec<IpAddr> =
        strings(&service["spec"]["clusterIPs"]).iter().filter_map(|ip| ip.parse().ok()).collect();
    let policy = match text(service, &["spec", "ipFamilyPolicy"]) {
        "" if given.len() == 2 || ips.len() == 2 => "RequireDualStack".to_owned(),
        "" => "SingleStack".to_owned(),
        policy => policy.to_owned(),
    };
    let mut families = match given.as_slice() {
        [] if !ips.is_empty() => ips.iter().map(|ip| family(*ip).to_owned()).collect(),
        [] => vec![available[0].to_owned()],
        given => given.to_vec(),
    };
    let other = |first: &str| if first == "IPv4" { "IPv6" } else { "IPv4" }.to_owned();
    if !free_of_cluster {
        for (index, wanted) in families.iter().enumerate() {
            if !available.contains(&wanted.as_str()) {
                let detail = "not configured on this cluster";
                errors.invalid(format!("spec.ipFamilies[{index}]"), wanted.as_str(), detail);
            }
        }
        if policy == "RequireDualStack" && available.len() < 2 {
            let detail = "this cluster is not configured for dual-stack services";
            errors.invalid("spec.ipFamilyPolicy", policy.as_str(), detail);
        }
    }
    if policy == "SingleStack" && families.len() > 1 {
        let detail = "may be RequireDualStack or PreferDualStack when multiple ipFamilies are specified";
        errors.invalid("spec.ipFamilyPolicy", policy.as_str(), detail);
    }
    if policy != "SingleStack" && families.len() == 1 && (available.len() == 2 || free_of_cluster) {
        families.push(other(&families[0]));
    }
    let spec = meta::member(service, "spec");
    spec.insert("ipFamilyPolicy".into(), policy.into());
    spec.insert("ipFamilies".into(), families.into());
}

fn strings(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// One Service asking for what is free.
struct Asking<'a> {
    allocations: &'a Allocations,
    entropy: &'a dyn Entropy,
    owner: Key,
}

impl Asking<'_> {
    fn cluster_ips(&self, service: &mut Object, errors: &mut FieldErrors) {
        if is_headless(service) {
            meta::member(service, "spec").insert("clusterIPs".into(), json!(["None"]));
            return;
        }
        let families = strings(&service["spec"]["ipFamilies"]);
        let given = strings(&service["spec"]["clusterIPs"]);
        let mut ips = Vec::new();
        for (index, wanted) in families.iter().enumerate() {
            match given.get(index).map(|text| text.parse::<IpAddr>()) {
                Some(Ok(ip)) => {
                    if let Err(problem) = self.allocations.check_address(ip, &self.owner) {
                        let detail = format!("failed to allocate IP {ip}: {problem}");
                        errors.invalid("spec.clusterIPs", json!(given), detail);
                    }
                    ips.push(ip.to_string());
                }
                // Validation names what is no address.
                Some(Err(_)) => ips.push(given[index].clone()),
                None => match self.allocations.free_address(wanted == "IPv4", self.entropy) {
                    Some(ip) => ips.push(ip.to_string()),
                    None => {
                        let detail = "failed to allocate a serviceIP: range is full";
                        errors.invalid("spec.clusterIPs", json!(given), detail);
                    }
                },
            }
        }
        let spec = meta::member(service, "spec");
        if let Some(first) = ips.first() {
            spec.insert("clusterIP".into(), first.as_str().into());
            spec.insert("clusterIPs".into(), ips.into());
        }
    }

    fn node_ports(&self, service: &mut Object, errors: &mut FieldErrors) {
        let Some(Value::Array(ports)) = meta::member(service, "spec").get_mut("ports") else { return };
        let mut taken: Vec<(u16, String)> = Vec::new();
        let mut by_port: Vec<(Value, u16)> = Vec::new();
        for (index, port) in ports.iter().enumerate().filter(|(_, port)| !unset(&port["nodePort"])) {
            let protocol = text(port, &["protocol"]).to_owned();
            match self.allocations.check_port(&port["nodePort"], &protocol, &self.owner) {
                Ok(number) => {
                    taken.push((number, protocol));
                    by_port.push((port["port"].clone(), number));
                }
                Err(problem) => {
                    errors.invalid(
                        format!("spec.ports[{index}].nodePort"),
                        port["nodePort"].clone(),
                        problem,
                    );
                }
            }
        }
        for (index, port) in ports.iter_mut().enumerate().filter(|(_, port)| unset(&port["nodePort"])) {
            let protocol = text(port, &["protocol"]).to_owned();
            let is_free = |number: u16| {
                let key = (number, protocol.clone());
                !taken.contains(&key) && !self.allocations.is_held_by_other(&key, &self.owner)
            };
            // One number for the same port under several protocols, where it is free.
            let shared = by_port.iter().find(|(other, number)| *other == port["port"] && is_free(*number));
            let number = shared.map(|(_, number)| *number).or_else(|| {
                let any_protocol =
                    |number| is_free(number) && taken.iter().all(|(other, _)| *other != number);
                self.allocations.free_port(self.entropy, any_protocol)
            });
            match number {
                Some(number) => {
                    port["nodePort"] = number.into();
                    by_port.push((port["port"].clone(), number));
                    taken.push((number, protocol));
                }
                None => errors.invalid(
                    format!("spec.ports[{index}].nodePort"),
                    0,
                    "failed to allocate a nodePort: range is full",
                ),
            }
        }
    }

    fn health_check_port(&self, service: &mut Object, errors: &mut FieldErrors) {
        let wanted = service["spec"]["healthCheckNodePort"].clone();
        let own: Vec<(u16, String)> = super::node_ports(service).collect();
        if !unset(&wanted) {
            if let Err(problem) = self.allocations.check_port(&wanted, "TCP", &self.owner) {
                let detail = format!("failed to allocate requested HealthCheck NodePort {wanted}: {problem}");
                errors.invalid("spec.healthCheckNodePort", wanted, detail);
            }
            return;
        }
        let is_free = |number: u16| {
            own.iter().all(|(other, _)| *other != number)
                && !self.allocations.is_held_by_other(&(number, "TCP".to_owned()), &self.owner)
        };
        match self.allocations.free_port(self.entropy, is_free) {
            Some(number) => {
                meta::member(service, "spec").insert("healthCheckNodePort".into(), number.into());
            }
            None => errors.invalid(
                "spec.healthCheckNodePort",
                0,
                "failed to allocate a HealthCheck NodePort: range is full",
            ),
        }
    }
}
