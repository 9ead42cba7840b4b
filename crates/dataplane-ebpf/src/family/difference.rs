//! What goes and what stays when a Service's rows change. Pure.

use std::collections::BTreeMap;

use abi::{Address, FrontendKey};

use crate::rows::Rows;

pub(super) fn gone<'a, K: Ord + Copy, V, W>(
    old: &'a BTreeMap<K, V>,
    new: &'a BTreeMap<K, W>,
) -> impl Iterator<Item = K> + 'a {
    old.keys().filter(|key| !new.contains_key(key)).copied()
}

pub(super) fn gone_keys<K: Ord + Copy, V, W>(old: &BTreeMap<K, V>, new: &BTreeMap<K, W>) -> Vec<K> {
    gone(old, new).collect()
}

pub(super) fn merge<A: Address>(
    mut old: Rows<A>,
    new: Rows<A>,
    ours: impl Fn(&FrontendKey<A>) -> bool,
) -> Rows<A> {
    old.frontends.extend(new.frontends.into_iter().filter(|(key, _)| ours(key)));
    old.backends.extend(new.backends);
    old.members.extend(new.members);
    old.ranges.extend(new.ranges);
    old.tables.extend(new.tables);
    old.bits.extend(new.bits);
    old
}
