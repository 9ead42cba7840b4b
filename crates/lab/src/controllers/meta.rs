//! What every controller needs to know about object metadata: owners, selectors, names, pod conditions, time.
//!
//! Pure. Never talks to the API, never reads a clock.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::{
    api::core::v1::{Pod, PodCondition},
    apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference, Time},
    jiff::Timestamp,
};
use kube::{
    Resource,
    core::{Selector, SelectorExt as _},
};

/// The alphabet of generated names: no vowels, so that no words appear (apimachinery `util/rand`).
const NAME_ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";

/// A reference that makes `owner` the managing controller.
pub(super) fn controlled_by<K: Resource<DynamicType = ()>>(owner: &K) -> Option<OwnerReference> {
    let reference = owner.controller_owner_ref(&())?;
    Some(OwnerReference { block_owner_deletion: Some(true), ..reference })
}

/// The controller that manages the object, if any.
pub(super) fn controller_of(meta: &ObjectMeta) -> Option<&OwnerReference> {
    meta.owner_references.as_ref()?.iter().find(|owner| owner.controller == Some(true))
}

pub(super) fn is_controlled_by(meta: &ObjectMeta, uid: Option<&str>) -> bool {
    uid.is_some() && controller_of(meta).map(|owner| owner.uid.as_str()) == uid
}

/// What of `objects` `owner` controls, and what it has to adopt: selected, without a controller, in its namespace and
/// not on its way out.
pub(super) fn claim<'a, K: Resource>(
    owner: &ObjectMeta,
    selector: Option<&LabelSelector>,
    objects: &'a [Arc<K>],
) -> (Vec<Arc<K>>, Vec<&'a Arc<K>>) {
    let uid = owner.uid.as_deref();
    let owned = objects.iter().filter(|object| is_controlled_by(object.meta(), uid)).map(Arc::clone);
    let is_orphan = |object: &&Arc<K>| {
        let (meta, none) = (object.meta(), BTreeMap::new());
        controller_of(meta).is_none()
            && meta.namespace == owner.namespace
            && !is_terminating(meta)
            && selector.is_some_and(|selector| selects(selector, meta.labels.as_ref().unwrap_or(&none)))
    };
    (owned.collect(), objects.iter().filter(is_orphan).collect())
}

/// Whether `selector` selects `labels`; one that does not parse or is empty selects nothing here.
pub(super) fn selects(selector: &LabelSelector, labels: &BTreeMap<String, String>) -> bool {
    let empty = selector.match_labels.as_ref().is_none_or(BTreeMap::is_empty)
        && selector.match_expressions.as_ref().is_none_or(Vec::is_empty);
    !empty && Selector::try_from(selector.clone()).is_ok_and(|selector| selector.matches(labels))
}

pub(super) fn is_terminating(meta: &ObjectMeta) -> bool {
    meta.deletion_timestamp.is_some()
}

/// `namespace/name` for log lines and errors.
pub(super) fn full_name(meta: &ObjectMeta) -> String {
    let name = meta.name.as_deref().unwrap_or_default();
    match &meta.namespace {
        Some(namespace) => format!("{namespace}/{name}"),
        None => name.to_owned(),
    }
}

/// 32-bit FNV-1a.
pub(super) fn fnv32(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

/// A hash as it appears in names: its decimal digits in the name alphabet.
pub(super) fn encode_hash(hash: u32) -> String {
    let digit = |c: u8| NAME_ALPHABET[usize::from(c) % NAME_ALPHABET.len()] as char;
    hash.to_string().bytes().map(digit).collect()
}

/// Five characters that depend on `seed` only, as a generated name's suffix.
pub(super) fn suffix(seed: &str) -> String {
    let mut hash = fnv32(seed.as_bytes());
    let mut digit = || {
        let index = hash as usize % NAME_ALPHABET.len();
        hash /= NAME_ALPHABET.len() as u32;
        NAME_ALPHABET[index] as char
    };
    (0..5).map(|_| digit()).collect()
}

/// API time has whole seconds; anything finer would differ from what the server returns.
pub(super) fn api_time(now: Timestamp) -> Time {
    Time(Timestamp::from_second(now.as_second()).unwrap_or(now))
}

pub(super) fn seconds_since(time: &Time, now: Timestamp) -> i64 {
    now.as_second() - time.0.as_second()
}

/// A condition of the pod by type ("Ready", "PodScheduled"…).
pub(super) fn pod_condition<'a>(pod: &'a Pod, kind: &str) -> Option<&'a PodCondition> {
    pod.status.as_ref()?.conditions.as_ref()?.iter().find(|condition| condition.type_ == kind)
}

pub(super) fn is_ready(pod: &Pod) -> bool {
    pod_condition(pod, "Ready").is_some_and(|condition| condition.status == "True")
}

pub(super) fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("Pending")
}

/// Whether the pod ended on its own and will not run again.
pub(super) fn is_finished(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

/// The node the pod is bound to.
pub(super) fn node_of(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref().filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_written_in_the_name_alphabet() {
        // The digits as real template hashes show them: "0" is byte 48, 48 mod 27 = 21, the 22nd letter.
        assert_eq!(encode_hash(1_234_567_890), "56789bcdf4");
        assert_eq!(fnv32(b""), 0x811c_9dc5);
        assert_eq!(fnv32(b"a"), 0xe40c_292c);
        assert!(encode_hash(u32::MAX).bytes().all(|c| NAME_ALPHABET.contains(&c)));
    }

    #[test]
    fn a_suffix_depends_on_its_seed_only() {
        assert_eq!(suffix("x"), suffix("x"));
        assert_ne!(suffix("x/0"), suffix("x/1"));
        assert_eq!(suffix("").len(), 5);
    }

    #[test]
    fn an_empty_selector_selects_nothing() {
        let labels = BTreeMap::from([("app".to_owned(), "nginx".to_owned())]);
        assert!(!selects(&LabelSelector::default(), &labels));
        let selector = LabelSelector { match_labels: Some(labels.clone()), ..LabelSelector::default() };
        assert!(selects(&selector, &labels));
        assert!(!selects(&selector, &BTreeMap::new()));
    }
}
