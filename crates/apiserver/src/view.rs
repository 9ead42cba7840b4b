//! One stored object seen through the versions and groups that show its kind. Never stores anything.

use std::sync::Arc;

use serde_json::{Map, Value};

use crate::{
    meta::Object,
    resource::{Builtin, Resource},
};

/// Members that the two event groups name differently: core first.
const EVENT_NAMES: [(&str, &str); 6] = [
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
];
const CONTROLLER: (&str, &str) = ("reportingComponent", "reportingController");

/// The object as the resource shows it.
pub(crate) fn present(resource: &Resource, object: &Arc<Object>) -> Arc<Object> {
    let api_version = resource.api_version();
    if object["apiVersion"] == api_version.as_str() {
        return Arc::clone(object);
    }
    let mut shown = Object::clone(object);
    if resource.is(Builtin::Event) {
        rename(&mut shown, |(core, events)| (core, events));
    }
    shown["apiVersion"] = api_version.into();
    Arc::new(shown)
}

/// A sent object in the form it is stored in.
pub(crate) fn accept(resource: &Resource, object: &mut Object) {
    if resource.is(Builtin::Event) && resource.group == "events.k8s.io" {
        rename(object, |(core, events)| (events, core));
        object["apiVersion"] = "v1".into();
    }
}

fn rename(object: &mut Object, direction: fn((&'static str, &'static str)) -> (&'static str, &'static str)) {
    let Value::Object(members) = object else { return };
    for names in EVENT_NAMES.into_iter().chain([CONTROLLER]) {
        let (from, to) = direction(names);
        move_member(members, from, to);
    }
}

fn move_member(members: &mut Map<String, Value>, from: &str, to: &str) {
    if let Some(value) = members.remove(from) {
        members.insert(to.to_owned(), value);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::{accept, present};
    use crate::resource::Registry;

    #[test]
    fn events_keep_all_they_say_through_either_group() {
        let registry = Registry::new();
        let new = registry.find("events.k8s.io", "v1", "events").unwrap();
        let sent = json!({"apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "e"},
            "regarding": {"kind": "Pod"}, "note": "hi", "reportingController": "c", "reason": "R"});
        let mut stored = sent.clone();
        accept(&new, &mut stored);
        assert_eq!(stored["involvedObject"]["kind"], "Pod");
        assert_eq!(stored["message"], "hi");
        assert_eq!(stored["reportingComponent"], "c");
        assert_eq!(*present(&new, &Arc::new(stored)), sent);
    }
}
