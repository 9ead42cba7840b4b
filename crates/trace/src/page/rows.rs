//! Facts as table rows: a name in words, a value with its unit, and whether the planes differ.

use std::collections::{BTreeMap, BTreeSet};

use model::Plane;
use serde::Serialize;
use serde_json::Value;

use crate::report::{Facts, LayerId, PlaneFacts, Trace};

#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Row {
    label: String,
    iptables: String,
    ebpf: String,
    apart: bool,
}

/// What the page opens with, where it was measured.
const GLANCE: &[(LayerId, &str)] = &[
    (LayerId::L4, "rules_per_service"),
    (LayerId::L4, "lookups_per_packet"),
    (LayerId::L6, "first_failure_ms"),
    (LayerId::L6, "median_failure_ms"),
    (LayerId::L6, "node_removed_after_s"),
    (LayerId::L6, "recovered"),
    (LayerId::L7, "lines_naming_a_pod"),
    (LayerId::L8, "other_got"),
    (LayerId::L8, "other_got_with_add_on"),
    (LayerId::L8, "drops_told"),
];

/// Names that need more than their own words.
const LABELS: &[(&str, &str)] = &[
    ("endpoints", "Endpoints"),
    ("members", "Nodes in the pool"),
    ("healthy", "of which healthy"),
    ("interface_crossings", "Times an interface of the node saw the packet"),
    ("netfilter_hooks", "Netfilter hooks it met rules at"),
    ("rules_applied", "Rules that applied to it"),
    ("ebpf_programs_run", "eBPF programs that ran for its connection"),
    ("rules_per_service", "Rules for this Service"),
    ("chains", "Chains of its own"),
    ("probabilities", "Chances, rule by rule"),
    ("frontends", "Frontends"),
    ("backend_sets", "Backend sets behind them"),
    ("lookups_per_packet", "Rules tried or Service rows looked up, per new connection"),
    ("backend_lookups", "Backend rows looked up, per new connection"),
    ("packets_by_one_lookup", "Later packets forwarded by one lookup"),
    ("total", "requests sent"),
    ("ok", "requests answered"),
    ("client_ip_preserved", "pod sees the client's address"),
    ("requests", "Requests in the window"),
    ("failed", "of which failed"),
    ("first_failure_ms", "First failed request took"),
    ("median_failure_ms", "Median failed request took"),
    ("node_removed_after_s", "Pool dropped the node after"),
    ("recovered", "Every request after that answered"),
    ("client_limit_s", "Client gives up after"),
    ("nodes_connected", "Nodes connected to the relay"),
    ("flows_before", "Flows per second before the requests"),
    ("requests_made", "Requests made"),
    ("connections_found", "of which found again"),
    ("handed_on", "of which seen on two nodes"),
    ("lines_captured", "Lines captured"),
    ("lines_naming_a_pod", "Captured lines that name a pod"),
    ("lines_with_identities", "Captured lines that say who talked to whom"),
    ("lines_with_a_verdict", "Captured lines that say what became of the packet"),
    ("frontend_got", "A request from role=frontend got"),
    ("other_got", "A request from role=other, which the policy does not allow, got"),
    ("frontend_got_with_add_on", "With the add-on, role=frontend got"),
    ("other_got_with_add_on", "With the add-on, role=other got"),
    ("rules_before", "Rules of a node before the policy"),
    ("rules_after", "Rules of a node with the policy"),
    ("rules_with_add_on", "Rules of a node with the add-on"),
    ("packets_dropped_by_rules", "Packets that those rules dropped at a node"),
    ("drops_told", "Drops of it that the relay told of, by name"),
    ("identities_told", "Pods with an identity"),
    ("entries", "Entries of the pod's allow-list"),
    ("entry_packets", "Packets counted by the entry of role=frontend"),
    ("health_check_port", "Health check port"),
    ("health_check_interval_s", "Health check every"),
    ("unhealthy_threshold", "Bad answers in a row until a node is dropped"),
];

/// The opening rows of a page.
pub(super) fn glance(trace: &Trace) -> Vec<Row> {
    let measured = |(id, name): &(LayerId, &str)| {
        let layer = trace.layers.iter().find(|layer| layer.id == *id)?;
        let [left, right] = Plane::ALL.map(|plane| layer.facts.of(plane).get(*name));
        let [iptables, ebpf] = [left, right].map(|value| value.map(|value| shown(name, value)));
        left.or(right).map(|_| Row::new(label(name), iptables, ebpf))
    };
    GLANCE.iter().filter_map(measured).collect()
}

/// All facts of a layer, groups taken apart, in the order of [`LABELS`].
pub(super) fn of(facts: &PlaneFacts) -> Vec<Row> {
    let [mut left, mut right] = Plane::ALL.map(|plane| flat(facts.of(plane)));
    let keys = left.keys().chain(right.keys()).cloned().collect::<BTreeSet<_>>();
    let row = |key: Key| Row::new(key.label(), left.remove(&key), right.remove(&key));
    keys.into_iter().map(row).collect()
}

/// A fact's place in the table, then its name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    group: Option<String>,
    rank: usize,
    name: String,
}

impl Key {
    fn new(group: Option<&str>, name: &str) -> Self {
        let rank = LABELS.iter().position(|(known, _)| *known == name).unwrap_or(LABELS.len());
        Self { group: group.map(str::to_owned), rank, name: name.to_owned() }
    }

    fn label(&self) -> String {
        match &self.group {
            Some(group) => format!("{group}: {}", label(&self.name)),
            None => label(&self.name),
        }
    }
}

impl Row {
    /// Absent means not measured on that plane.
    fn new(label: String, iptables: Option<String>, ebpf: Option<String>) -> Self {
        let apart = iptables != ebpf;
        let [iptables, ebpf] = [iptables, ebpf].map(|value| value.unwrap_or_else(|| "—".to_owned()));
        Self { label, iptables, ebpf, apart }
    }
}

/// Every scalar, ready to show; one level of groups is taken apart.
fn flat(facts: &Facts) -> BTreeMap<Key, String> {
    let mut rows = BTreeMap::new();
    for (name, value) in facts {
        match value {
            Value::Object(group) => {
                let inner =
                    |(inner, value): (&String, &Value)| (Key::new(Some(name), inner), shown(inner, value));
                rows.extend(group.iter().map(inner));
            }
            value => {
                rows.insert(Key::new(None, name), shown(name, value));
            }
        }
    }
    rows
}

/// In words; an unknown name is its own label.
fn label(name: &str) -> String {
    if let Some((_, label)) = LABELS.iter().find(|(known, _)| *known == name) {
        return (*label).to_owned();
    }
    let words = name.trim_end_matches("_ms").trim_end_matches("_s").replace('_', " ");
    let mut letters = words.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}

/// A value with the unit that its name ends in.
fn shown(name: &str, value: &Value) -> String {
    let unit = if name.ends_with("_ms") {
        " ms"
    } else if name.ends_with("_s") {
        " s"
    } else {
        ""
    };
    match value {
        Value::Null => "none".to_owned(),
        Value::Bool(true) => "yes".to_owned(),
        Value::Bool(false) => "no".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(list) => list.iter().map(|item| shown("", item)).collect::<Vec<_>>().join(", "),
        Value::Number(number) => match number.as_f64().filter(|_| number.is_f64()) {
            // Three decimals are more than any measurement here is good for.
            Some(fraction) => format!("{}{unit}", (fraction * 1000.0).round() / 1000.0),
            None => format!("{number}{unit}"),
        },
        value => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn facts_read_as_words_with_units_in_a_steady_order() {
        let facts: PlaneFacts = serde_json::from_value(json!({
            "iptables": {"failed": 4, "requests": 12, "median_failure_ms": 6001, "recovered": true, "odd_thing_s": 2},
            "ebpf": {"failed": 4, "requests": 31, "median_failure_ms": 12.0},
        }))
        .expect("facts");
        let rows = of(&facts);
        let table = rows.iter().map(|r| (r.label.as_str(), r.iptables.as_str(), r.ebpf.as_str(), r.apart));
        assert_eq!(
            table.collect::<Vec<_>>(),
            [
                ("Requests in the window", "12", "31", true),
                ("of which failed", "4", "4", false),
                ("Median failed request took", "6001 ms", "12 ms", true),
                ("Every request after that answered", "yes", "—", true),
                ("Odd thing", "2 s", "—", true),
            ]
        );
    }

    #[test]
    fn a_group_is_taken_apart_under_its_name() {
        let facts: PlaneFacts = serde_json::from_value(json!({
            "iptables": {"Local": {"ok": 10, "total": 10, "client_ip_preserved": true}}, "ebpf": {},
        }))
        .expect("facts");
        let labels = of(&facts).into_iter().map(|row| row.label).collect::<Vec<_>>();
        assert_eq!(
            labels,
            ["Local: requests sent", "Local: requests answered", "Local: pod sees the client's address"]
        );
    }
}
