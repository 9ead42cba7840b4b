//! Objects in memory under one monotonic resource version, with the recent changes of each resource for watches.
//! Never looks into an object beyond its metadata.

mod cursor;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    sync::Arc,
};

use tokio::sync::watch;

pub(crate) use cursor::{Cursor, Expired};

use crate::meta::{self, Object};

/// Where an object is: namespace ("" for cluster-wide kinds) and name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Key {
    pub(crate) namespace: String,
    pub(crate) name: String,
}

impl Key {
    pub(crate) fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }

    pub(crate) fn of(object: &Object) -> Self {
        Self::new(meta::namespace(object), meta::name(object))
    }
}

/// An object's place over all resources: storage and key.
pub(crate) type Place = (Arc<str>, Key);

/// One change of one object.
#[derive(Debug, Clone)]
pub(crate) struct Change {
    pub(crate) version: u64,
    /// The object before; none when it was created.
    pub(crate) old: Option<Arc<Object>>,
    /// The object after. When it was removed: its last state, at the version of the removal.
    pub(crate) new: Arc<Object>,
    pub(crate) removed: bool,
}

#[derive(Debug)]
struct Table {
    objects: BTreeMap<Key, Arc<Object>>,
    changes: VecDeque<Change>,
    /// The newest version that was dropped from `changes`: a watch may start at it, not before it.
    floor: u64,
    wake: watch::Sender<u64>,
}

/// All objects.
#[derive(Debug)]
pub(crate) struct Store {
    version: u64,
    history: usize,
    tables: HashMap<Arc<str>, Table>,
    dependents: HashMap<String, BTreeSet<Place>>,
}

impl Store {
    /// `history` bounds the changes kept per resource.
    pub(crate) fn new(history: usize) -> Self {
        Self { version: 1, history, tables: HashMap::new(), dependents: HashMap::new() }
    }

    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    pub(crate) fn get(&self, storage: &str, key: &Key) -> Option<&Arc<Object>> {
        self.tables.get(storage)?.objects.get(key)
    }

    /// Objects of one namespace, or of all, ordered by namespace and name.
    pub(crate) fn list<'a>(
        &'a self,
        storage: &str,
        namespace: Option<&'a str>,
    ) -> impl Iterator<Item = &'a Arc<Object>> + use<'a> {
        let from = Key::new(namespace.unwrap_or(""), "");
        self.tables
            .get(storage)
            .into_iter()
            .flat_map(move |table| table.objects.range(from.clone()..))
            .take_while(move |(key, _)| namespace.is_none_or(|namespace| key.namespace == namespace))
            .map(|(_, object)| object)
    }

    /// Writes an object at the next version and returns it as stored.
    pub(crate) fn put(&mut self, storage: &Arc<str>, mut object: Object) -> Arc<Object> {
        let version = self.stamp(&mut object);
        let object = Arc::new(object);
        let key = Key::of(&object);
        let old = self.table(storage).objects.insert(key.clone(), Arc::clone(&object));
        if let Some(old) = &old {
            self.unlink(storage, &key, old);
        }
        self.link(storage, &key, &object);
        self.record(storage, Change { version, old, new: Arc::clone(&object), removed: false });
        object
    }

    /// Removes an object; its last state carries the version of the removal.
    pub(crate) fn remove(&mut self, storage: &Arc<str>, key: &Key) -> Option<Arc<Object>> {
        let old = self.tables.get_mut(storage)?.objects.remove(key)?;
        self.unlink(storage, key, &old);
        let mut last = Object::clone(&old);
        let version = self.stamp(&mut last);
        let last = Arc::new(last);
        self.record(storage, Change { version, old: Some(old), new: Arc::clone(&last), removed: true });
        Some(last)
    }

    /// Forgets a resource altogether; its watches end.
    pub(crate) fn drop_storage(&mut self, storage: &str) {
        self.tables.remove(storage);
    }

    /// The objects that name this uid as an owner.
    pub(crate) fn dependents(&self, uid: &str) -> Vec<Place> {
        self.dependents.get(uid).into_iter().flatten().cloned().collect()
    }

    /// Follows the changes of a resource after `version`; the current objects are not repeated.
    pub(crate) fn follow(&mut self, storage: &Arc<str>, version: u64) -> Cursor {
        Cursor::new(Arc::clone(storage), version, self.table(storage).wake.subscribe())
    }

    fn table(&mut self, storage: &Arc<str>) -> &mut Table {
        let version = self.version;
        self.tables.entry(Arc::clone(storage)).or_insert_with(|| Table {
            objects: BTreeMap::new(),
            changes: VecDeque::new(),
            floor: 0,
            wake: watch::Sender::new(version),
        })
    }

    fn stamp(&mut self, object: &mut Object) -> u64 {
        self.version += 1;
        meta::metadata(object).insert("resourceVersion".into(), self.version.to_string().into());
        self.version
    }

    fn record(&mut self, storage: &Arc<str>, change: Change) {
        let (version, history) = (change.version, self.history);
        let table = self.table(storage);
        table.changes.push_back(change);
        while table.changes.len() > history {
            if let Some(dropped) = table.changes.pop_front() {
                table.floor = dropped.version;
            }
        }
        table.wake.send_replace(version);
    }

    fn link(&mut self, storage: &Arc<str>, key: &Key, object: &Object) {
        for uid in meta::owner_uids(object) {
            self.dependents.entry(uid.to_owned()).or_default().insert((Arc::clone(storage), key.clone()));
        }
    }

    fn unlink(&mut self, storage: &Arc<str>, key: &Key, object: &Object) {
        for uid in meta::owner_uids(object) {
            if let Some(places) = self.dependents.get_mut(uid) {
                places.remove(&(Arc::clone(storage), key.clone()));
                if places.is_empty() {
                    self.dependents.remove(uid);
                }
            }
        }
    }
}
