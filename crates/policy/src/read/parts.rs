//! What both kinds of policy have in common: selectors, prefixes, ranges of ports.

use ipnet::IpNet;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use model::label_keys::{NAMESPACE, NAMESPACE_LABELS, PASSED_OVER, SERVICE_ACCOUNT, SOURCE};

use crate::{problem::Report, selector::Selector};

/// What can be read of a selector of pods, and whether that is all of it.
pub(super) fn pods(selector: &LabelSelector, field: &str, report: &mut Report) -> (Selector, bool) {
    let (mut read, whole) = namespaces(selector, field, report);
    let before = read.0.len();
    read.0.retain(|requirement| {
        let known = is_of_identity(&requirement.key);
        if !known {
            let key = &requirement.key;
            report.add(
                field,
                format!("label {key:?} differs between pods that are otherwise alike: not supported"),
            );
        }
        known
    });
    let whole = whole && read.0.len() == before;
    (read, whole)
}

/// The same of namespaces.
pub(super) fn namespaces(selector: &LabelSelector, field: &str, report: &mut Report) -> (Selector, bool) {
    let (read, faults) = Selector::read(selector);
    let whole = faults.is_empty();
    for (part, reason) in faults {
        report.add(format!("{field}.{part}"), reason);
    }
    (read, whole)
}

/// Whether identities have this label of pods, and have it from the pod.
fn is_of_identity(key: &str) -> bool {
    let keyed = format!("{SOURCE}{key}");
    let reserved = keyed == NAMESPACE || keyed == SERVICE_ACCOUNT || keyed.starts_with(NAMESPACE_LABELS);
    !PASSED_OVER.contains(&key) && !reserved && keyed != model::label_keys::CLUSTER
}

/// A prefix without host bits.
pub(super) fn prefix(text: &str) -> Result<IpNet, String> {
    let parsed: Result<IpNet, _> = text.parse();
    parsed.map(|net| net.trunc()).map_err(|_| format!("invalid prefix {text:?}: want address/length"))
}

/// A port from 1 to 65535.
pub(super) fn port(number: i32) -> Result<u16, String> {
    let valid = u16::try_from(number).ok().filter(|port| *port != 0);
    valid.ok_or_else(|| format!("port must be between 1 and 65535, not {number}"))
}
