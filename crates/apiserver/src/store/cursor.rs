//! A watcher's place in a resource's changes. Nothing is queued per watcher: one that falls behind the kept changes
//! is told so instead of being fed a gap.

use std::sync::Arc;

use tokio::sync::watch;

use super::{Change, Store};

/// The changes after the cursor's version are no longer kept, or its version was never given out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Expired {
    pub(crate) asked: u64,
    pub(crate) current: u64,
}

/// A place in the changes of one resource.
#[derive(Debug)]
pub(crate) struct Cursor {
    storage: Arc<str>,
    version: u64,
    wake: watch::Receiver<u64>,
}

impl Cursor {
    pub(super) fn new(storage: Arc<str>, version: u64, wake: watch::Receiver<u64>) -> Self {
        Self { storage, version, wake }
    }

    /// The version up to which everything was seen.
    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    /// Waits for a change; false once the resource is gone.
    pub(crate) async fn changed(&mut self) -> bool {
        self.wake.changed().await.is_ok()
    }
}

impl Store {
    /// The changes since the cursor was last advanced, in order.
    pub(crate) fn advance(&self, cursor: &mut Cursor) -> Result<Vec<Change>, Expired> {
        cursor.wake.mark_unchanged();
        let expired = Expired { asked: cursor.version, current: self.version };
        if cursor.version > self.version {
            return Err(expired);
        }
        let Some(table) = self.tables.get(&cursor.storage) else {
            return Ok(Vec::new());
        };
        if cursor.version < table.floor {
            return Err(expired);
        }
        let from = table.changes.partition_point(|change| change.version <= cursor.version);
        cursor.version = self.version;
        Ok(table.changes.range(from..).cloned().collect())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;
    use serde_json::json;

    use super::super::{Key, Store};

    fn object(name: u8, value: u8) -> serde_json::Value {
        json!({"metadata": {"name": format!("o{name}")}, "value": value})
    }

    proptest! {
        /// Invariant: a list plus the changes after it is the next list.
        #[test]
        fn list_and_changes_make_the_next_list(
            before in prop::collection::vec((0u8..6, any::<bool>(), any::<u8>()), 0..20),
            after in prop::collection::vec((0u8..6, any::<bool>(), any::<u8>()), 0..20),
        ) {
            let storage: Arc<str> = "things".into();
            let mut store = Store::new(1000);
            let run = |store: &mut Store, steps: &[(u8, bool, u8)]| {
                for (name, put, value) in steps {
                    if *put {
                        store.put(&storage, object(*name, *value));
                    } else {
                        store.remove(&storage, &Key::new("", format!("o{name}")));
                    }
                }
            };
            run(&mut store, &before);
            let mut view: std::collections::BTreeMap<Key, _> =
                store.list("things", None).map(|o| (Key::of(o), Arc::clone(o))).collect();
            let version = store.version();
            let mut cursor = store.follow(&"things".into(), version);
            run(&mut store, &after);
            let mut last = cursor.version();
            for change in store.advance(&mut cursor).unwrap() {
                prop_assert!(change.version > last);
                last = change.version;
                let key = Key::of(&change.new);
                let old = if change.removed { view.remove(&key) } else { view.insert(key, change.new) };
                prop_assert_eq!(old, change.old);
            }
            let now: std::collections::BTreeMap<Key, _> =
                store.list("things", None).map(|o| (Key::of(o), Arc::clone(o))).collect();
            prop_assert_eq!(view, now);
            prop_assert!(store.advance(&mut cursor).unwrap().is_empty());
        }
    }

    #[test]
    fn a_cursor_behind_the_history_is_expired_not_fed_a_gap() {
        let storage: Arc<str> = "things".into();
        let mut store = Store::new(2);
        let mut early = store.follow(&storage, store.version());
        store.put(&storage, object(0, 0));
        let mut at_first = store.follow(&storage, store.version());
        store.put(&storage, object(1, 0));
        store.put(&storage, object(2, 0));
        assert_eq!(store.advance(&mut at_first).unwrap().len(), 2);
        assert_eq!(store.advance(&mut early).unwrap_err().asked, 1);
    }

    #[test]
    fn a_version_from_another_life_is_expired() {
        let mut store = Store::new(2);
        let mut future = store.follow(&"things".into(), 99);
        assert!(store.advance(&mut future).is_err());
    }
}
