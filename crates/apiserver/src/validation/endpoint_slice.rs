//! EndpointSlices. Never relates one to its Service.

use serde_json::Value;

use super::{FieldErrors, address, names, port};
use crate::meta::{Object, is_empty, items, text};

const ENDPOINTS_MAX: usize = 1000;
const ADDRESSES_MAX: usize = 100;
const PORTS_MAX: usize = 100;

pub(super) fn check(slice: &Object, errors: &mut FieldErrors) {
    let kind = text(slice, &["addressType"]);
    match kind {
        "" => errors.required("addressType", ""),
        "IPv4" | "IPv6" | "FQDN" => {}
        other => errors.unsupported("addressType", other, &["FQDN", "IPv4", "IPv6"]),
    }
    let endpoints = items(slice, &["endpoints"]);
    if endpoints.len() > ENDPOINTS_MAX {
        errors.too_many("endpoints", endpoints.len(), ENDPOINTS_MAX);
        return;
    }
    for (index, entry) in endpoints.iter().enumerate() {
        endpoint(entry, kind, &format!("endpoints[{index}]"), errors);
    }
    ports(slice, errors);
}

fn endpoint(endpoint: &Value, kind: &str, path: &str, errors: &mut FieldErrors) {
    let addresses = items(endpoint, &["addresses"]);
    if addresses.is_empty() {
        errors.required(format!("{path}.addresses"), "must contain at least 1 address");
    } else if addresses.len() > ADDRESSES_MAX {
        errors.too_many(format!("{path}.addresses"), addresses.len(), ADDRESSES_MAX);
    }
    for (index, text) in addresses.iter().filter_map(Value::as_str).enumerate() {
        one_address(text, kind, &format!("{path}.addresses[{index}]"), errors);
    }
    let node = text(endpoint, &["nodeName"]);
    if !node.is_empty() {
        for problem in names::dns1123_subdomain(node) {
            errors.invalid(format!("{path}.nodeName"), node, problem);
        }
    }
    let hostname = text(endpoint, &["hostname"]);
    if !hostname.is_empty() {
        for problem in names::dns1123_label(hostname) {
            errors.invalid(format!("{path}.hostname"), hostname, problem);
        }
    }
    for hint in ["forZones", "forNodes"] {
        for (index, entry) in items(endpoint, &["hints", hint]).iter().enumerate() {
            if is_empty(&entry["name"]) {
                errors.required(format!("{path}.hints.{hint}[{index}].name"), "");
            }
        }
    }
}

fn one_address(text: &str, kind: &str, path: &str, errors: &mut FieldErrors) {
    let wanted = match kind {
        "IPv4" | "IPv6" => kind,
        _ => {
            if kind == "FQDN" {
                for problem in names::dns1123_subdomain(text) {
                    errors.invalid(path, text, problem);
                }
            }
            return;
        }
    };
    match address::ip(text).filter(|ip| ip.is_ipv4() == (wanted == "IPv4")) {
        Some(ip) => address::check_reachable(path, text, ip, errors),
        None => errors.invalid(path, text, format!("must be a valid {wanted} address")),
    }
}

fn ports(slice: &Object, errors: &mut FieldErrors) {
    let ports = items(slice, &["ports"]);
    if ports.len() > PORTS_MAX {
        errors.too_many("ports", ports.len(), PORTS_MAX);
        return;
    }
    for (index, entry) in ports.iter().enumerate() {
        let path = format!("ports[{index}]");
        let name = text(entry, &["name"]);
        if !name.is_empty() {
            for problem in names::dns1123_label(name) {
                errors.invalid(format!("{path}.name"), name, problem);
            }
        }
        if ports[..index].iter().any(|other| text(other, &["name"]) == name) {
            errors.duplicate(format!("{path}.name"), name);
        }
        port::check_protocol(&format!("{path}.protocol"), text(entry, &["protocol"]), errors);
        if !entry["port"].is_null() {
            port::check_number(&format!("{path}.port"), &entry["port"], errors);
        }
    }
}

pub(super) fn update(old: &Object, slice: &Object, errors: &mut FieldErrors) {
    if old["addressType"] != slice["addressType"] {
        errors.invalid("addressType", slice["addressType"].clone(), "field is immutable");
    }
}
