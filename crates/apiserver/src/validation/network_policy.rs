//! NetworkPolicies. Never decides what one allows.

use serde_json::Value;

use super::{FieldErrors, address, port, selector};
use crate::meta::{Object, items, text};

pub(super) fn check(policy: &Object, errors: &mut FieldErrors) {
    let spec = &policy["spec"];
    selector::check(&spec["podSelector"], "spec.podSelector", errors);
    for (direction, peers) in [("ingress", "from"), ("egress", "to")] {
        for (index, rule) in items(spec, &[direction]).iter().enumerate() {
            let path = format!("spec.{direction}[{index}]");
            for (index, entry) in items(rule, &["ports"]).iter().enumerate() {
                policy_port(entry, &format!("{path}.ports[{index}]"), errors);
            }
            for (index, entry) in items(rule, &[peers]).iter().enumerate() {
                peer(entry, &format!("{path}.{peers}[{index}]"), errors);
            }
        }
    }
    let types = items(spec, &["policyTypes"]);
    if types.len() > 2 {
        errors.invalid("spec.policyTypes", types.to_vec(), "may not specify more than two policyTypes");
        return;
    }
    for (index, kind) in types.iter().enumerate() {
        if kind != "Ingress" && kind != "Egress" {
            errors.unsupported(format!("spec.policyTypes[{index}]"), kind.clone(), &["Egress", "Ingress"]);
        }
    }
}

fn policy_port(entry: &Value, path: &str, errors: &mut FieldErrors) {
    port::check_protocol(&format!("{path}.protocol"), text(entry, &["protocol"]), errors);
    let (number, end) = (&entry["port"], &entry["endPort"]);
    if !number.is_null() {
        port::check_number_or_name(&format!("{path}.port"), number, errors);
    }
    if end.is_null() {
        return;
    }
    let path = format!("{path}.endPort");
    match (number.as_i64(), end.as_i64()) {
        (None, _) if number.is_string() => {
            errors.invalid(path, end.clone(), "may not be specified when `port` is non-numeric");
        }
        (None, _) => errors.invalid(path, end.clone(), "may not be specified when `port` is not specified"),
        (Some(first), Some(last)) if last < first => {
            errors.invalid(path, last, "must be greater than or equal to `port`");
        }
        _ => port::check_number(&path, end, errors),
    }
}

fn peer(peer: &Value, path: &str, errors: &mut FieldErrors) {
    let selectors = ["podSelector", "namespaceSelector"];
    let mut peers = 0;
    for field in selectors {
        if !peer[field].is_null() {
            peers += 1;
            selector::check(&peer[field], &format!("{path}.{field}"), errors);
        }
    }
    let block = &peer["ipBlock"];
    match (block.is_null(), peers) {
        (true, 0) => errors.required(path, "must specify a peer"),
        (true, _) => {}
        (false, 0) => ip_block(block, &format!("{path}.ipBlock"), errors),
        (false, _) => errors.forbidden(path, "may not specify both ipBlock and another peer"),
    }
}

fn ip_block(block: &Value, path: &str, errors: &mut FieldErrors) {
    let text_of_cidr = text(block, &["cidr"]);
    if text_of_cidr.is_empty() {
        errors.required(format!("{path}.cidr"), "");
        return;
    }
    let Some(cidr) = address::check_cidr(&format!("{path}.cidr"), text_of_cidr, errors) else { return };
    for (index, except) in items(block, &["except"]).iter().filter_map(Value::as_str).enumerate() {
        let path = format!("{path}.except[{index}]");
        let Some(inner) = address::check_cidr(&path, except, errors) else { continue };
        if !cidr.contains(&inner.network()) || inner.prefix_len() <= cidr.prefix_len() {
            errors.invalid(path, except, "must be a strict subset of `cidr`");
        }
    }
}
