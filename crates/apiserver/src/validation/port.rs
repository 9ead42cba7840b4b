//! Port numbers and protocols. Never knows whose.

use serde_json::Value;

use super::{FieldErrors, names};

pub(super) const PROTOCOLS: [&str; 3] = ["SCTP", "TCP", "UDP"];

/// A number from 1 to 65535.
pub(super) fn check_number(field: &str, port: &Value, errors: &mut FieldErrors) {
    if !port.as_i64().is_some_and(|port| (1..=65535).contains(&port)) {
        let shown = if port.is_null() { 0.into() } else { port.clone() };
        errors.invalid(field, shown, "must be between 1 and 65535, inclusive");
    }
}

/// A number or the name of a container port.
pub(super) fn check_number_or_name(field: &str, port: &Value, errors: &mut FieldErrors) {
    match port.as_str() {
        None => check_number(field, port, errors),
        Some(name) => {
            for problem in names::port_name(name) {
                errors.invalid(field, name, problem);
            }
        }
    }
}

/// One of the transport protocols Services and policies know.
pub(super) fn check_protocol(field: &str, protocol: &str, errors: &mut FieldErrors) {
    if protocol.is_empty() {
        errors.required(field, "");
    } else if !PROTOCOLS.contains(&protocol) {
        errors.unsupported(field, protocol, &PROTOCOLS);
    }
}
