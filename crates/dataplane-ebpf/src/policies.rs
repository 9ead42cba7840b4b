//! Who may talk to whom, in the kernel's tables: what is new before what leads to it, an endpoint by one write, what is gone last.
//!
//! Closed where there is no room: a row that cannot be written allows nothing, a list with ranks that lacks one is given to no
//! endpoint (it may lack a denial), and what an endpoint has stays until what it is to have is whole.
//!
//! Never decides: the table is [`model::PolicyTable`], row by row.

mod back;
mod rows;
mod rules;
mod upkeep;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::Path,
};

use abi::{PeerRow, PolicyPeer, PolicyRow, PortAction, PortKey, V4, V6};
use dataplane::Error;
use ipnet::IpNet;
use model::{
    IdentityId, PodName, PolicyTable,
    policy::{ListId, Peer, PeerKey, PolicyChanged, PortMap, PortsId, Tier},
};

use self::rules::Rules;
use crate::{
    family::MapNames,
    table::{Mirrored, Prefix, Reading},
};

pub(crate) const POLICIES: &str = "POLICIES";
pub(crate) const LISTS: &str = "LISTS";
pub(crate) const PEERS: &str = "PEERS";
pub(crate) const PORTS: &str = "PORTS";
pub(crate) const RULES: &str = "RULES";
pub(crate) const NAMES: [&str; 5] = [POLICIES, LISTS, PEERS, PORTS, RULES];

/// The first numbers that nothing in the kernel has, as an agent left it: those that came before are not given again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FirstNumbers {
    pub list: ListId,
    pub ports: PortsId,
    /// As offset among the identities local to the node.
    pub prefix: u32,
    /// Prefixes with the identities that they have there.
    pub prefixes: BTreeMap<IpNet, IdentityId>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Policies {
    endpoints: Mirrored<u32, PolicyRow>,
    lists: Mirrored<u32, u32>,
    peers: Mirrored<PolicyPeer, PeerRow>,
    ports: Mirrored<Prefix<PortKey>, PortAction>,
    /// The rows of each number in `ports`.
    numbered: BTreeMap<u32, Vec<Prefix<PortKey>>>,
    v4: Mirrored<Prefix<V4>, u32>,
    v6: Mirrored<Prefix<V6>, u32>,
    pub(crate) rules: Rules,
    /// What is to be tried again.
    unwritten: PolicyChanged,
    /// The interfaces of endpoints that have a row.
    interfaces: BTreeMap<PodName, u32>,
    /// Rows of a former agent were compared with a table.
    adopted: bool,
}

/// So that no address is taken for a prefix's that it is in a hole of.
fn put_longest_first<A: MapNames>(
    table: &mut Mirrored<Prefix<A>, u32>,
    mut rows: BTreeMap<Prefix<A>, u32>,
) -> io::Result<()> {
    // Keys are in order of their lengths.
    while let Some((last, _)) = rows.last_key_value() {
        let longest = Prefix { length: last.length, data: A::default() };
        table.put(&rows.split_off(&longest))?;
    }
    Ok(())
}

/// What could not be done.
#[derive(Debug, Default)]
pub(crate) struct Refused {
    /// Of the first table that refused something.
    pub(crate) error: Option<Error>,
    /// Who has not what it is to have.
    pub(crate) endpoints: BTreeSet<PodName>,
}

impl Refused {
    fn note(&mut self, table: &'static str, result: io::Result<()>) {
        let Err(source) = result else { return };
        let error = match source.raw_os_error() {
            // `htab_map_update_elem`, `trie_update_elem`
            Some(libc::E2BIG | libc::ENOSPC) => Error::new("program policies in", table, "the table is full"),
            _ => Error::new("program policies in", table, source),
        };
        self.error.get_or_insert(error);
    }
}

fn unopened(name: &'static str) -> impl Fn(io::Error) -> Error {
    move |source| Error::new("open pinned map", name, source)
}

impl Policies {
    /// Opens the pinned tables, with what a former agent left in them.
    pub(crate) fn open(directory: &Path) -> Result<Self, Error> {
        let mut this = Self {
            endpoints: Mirrored::open(directory, POLICIES, Reading::Batch).map_err(unopened(POLICIES))?,
            lists: Mirrored::open(directory, LISTS, Reading::Batch).map_err(unopened(LISTS))?,
            peers: Mirrored::open(directory, PEERS, Reading::Batch).map_err(unopened(PEERS))?,
            ports: Mirrored::open(directory, PORTS, Reading::Walk).map_err(unopened(PORTS))?,
            numbered: BTreeMap::new(),
            v4: Mirrored::open(directory, V4::PREFIXES, Reading::Walk).map_err(unopened(V4::PREFIXES))?,
            v6: Mirrored::open(directory, V6::PREFIXES, Reading::Walk).map_err(unopened(V6::PREFIXES))?,
            rules: Rules::open(directory).map_err(unopened(RULES))?,
            unwritten: PolicyChanged::default(),
            interfaces: BTreeMap::new(),
            adopted: false,
        };
        this.count_numbers();
        Ok(this)
    }

    fn count_numbers(&mut self) {
        self.numbered.clear();
        for key in self.ports.known().keys() {
            self.numbered.entry(key.data.ports).or_default().push(*key);
        }
    }

    /// See [`FirstNumbers`].
    pub(crate) fn first_numbers(&self) -> FirstNumbers {
        let after = |last: Option<u32>| last.map_or(1, |last| last + 1);
        let peers = self.peers.known();
        let lists = self.lists.known().keys().chain(peers.keys().map(|peer| &peer.list));
        let ports = self.numbered.keys().copied().chain(peers.values().map(|row| row.ports));
        let prefixes = self.v4.known().values().chain(self.v6.known().values());
        let prefix = prefixes.max().map_or(0, |last| last.wrapping_sub(IdentityId::FIRST_LOCAL) + 1);
        // One that means nothing is replaced, or removed with what nobody wants.
        let mut named = back::prefixes(self.v4.known()).unwrap_or_default();
        named.extend(back::prefixes(self.v6.known()).unwrap_or_default());
        FirstNumbers {
            list: ListId(after(lists.copied().max())),
            ports: PortsId(after(ports.max())),
            prefix,
            prefixes: named.into_iter().collect(),
        }
    }

    /// Programs what `changed` names of `table`, and what could not be programmed before. `interfaces` are those of this node's
    /// pods: where one is another than before, its row is written anew.
    pub(crate) fn apply(
        &mut self,
        table: &PolicyTable,
        changed: &PolicyChanged,
        interfaces: &BTreeMap<PodName, u32>,
    ) -> Refused {
        let mut due = std::mem::take(&mut self.unwritten);
        due.merge(changed.clone());
        due.again = false;
        let mut refused = Refused::default();
        let stay = self.add(table, &due, interfaces, &mut refused);
        if refused.error.is_some() {
            self.unwritten = due.clone();
        }
        if stay.is_empty() {
            self.remove(table, &due, interfaces, &mut refused);
            if !self.adopted {
                self.adopt(table, interfaces, &mut refused);
            }
        }
        refused.endpoints = stay;
        refused
    }

    /// Returns the endpoints that keep what they have.
    fn add(
        &mut self,
        table: &PolicyTable,
        due: &PolicyChanged,
        interfaces: &BTreeMap<PodName, u32>,
        refused: &mut Refused,
    ) -> BTreeSet<PodName> {
        let numbers = due.ports.iter().filter_map(|id| Some((*id, table.ports.get(id)?)));
        for (id, ports) in numbers.filter(|(_, ports)| rows::only(ports).is_none()) {
            self.add_ports(id, ports, refused);
        }
        refused.note(RULES, self.rules.add(due.rules.iter().filter(|id| table.rules.contains_key(id))));
        let lists = due.lists.iter().filter_map(|id| Some((id.0, table.lists.get(id)?)));
        let lists = lists.map(|(id, list)| (id, list.isolation.map_or(0, |rule| rule.0))).collect();
        refused.note(LISTS, self.lists.put(&lists));
        if !self.have_room(table, due) {
            // A hole that is missing would be open.
            refused.note(V4::PREFIXES, Err(io::Error::from_raw_os_error(libc::ENOSPC)));
            return interfaces.keys().cloned().collect();
        }
        // A hole's prefix before the rows of what it is cut out of, and after its own.
        let placed = self.placed();
        let (placed, others): (BTreeSet<PeerKey>, BTreeSet<PeerKey>) = due
            .peers
            .iter()
            .partition(|key| matches!(key.peer, Peer::Identity(id) if placed.contains(&id.get())));
        let mut broken = self.add_peers(table, &others, refused);
        refused.note(V4::PREFIXES, put_longest_first(&mut self.v4, rows::prefixes(table, &due.prefixes)));
        refused.note(V6::PREFIXES, put_longest_first(&mut self.v6, rows::prefixes(table, &due.prefixes)));
        broken.extend(self.add_peers(table, &placed, refused));
        self.switch(table, interfaces, &broken, refused)
    }

    fn add_ports(&mut self, id: PortsId, ports: &PortMap, refused: &mut Refused) {
        let rows = rows::ports(id, ports);
        self.numbered.insert(id.0, rows.keys().copied().collect());
        refused.note(PORTS, self.ports.put(&rows));
    }

    /// Whether all prefixes find a place.
    fn have_room(&self, table: &PolicyTable, due: &PolicyChanged) -> bool {
        fn fits<A: MapNames>(
            mirrored: &Mirrored<Prefix<A>, u32>,
            table: &PolicyTable,
            due: &PolicyChanged,
        ) -> bool {
            let wanted = rows::prefixes::<A>(table, &due.prefixes);
            let new = wanted.keys().filter(|key| !mirrored.known().contains_key(key)).count();
            mirrored.known().len() + new <= mirrored.table().capacity() as usize
        }
        fits(&self.v4, table, due) && fits(&self.v6, table, due)
    }

    /// The identities of prefixes that packets meet now.
    fn placed(&self) -> BTreeSet<u32> {
        self.v4.known().values().chain(self.v6.known().values()).copied().collect()
    }

    /// Returns the lists with ranks that lack a row.
    fn add_peers(
        &mut self,
        table: &PolicyTable,
        due: &BTreeSet<PeerKey>,
        refused: &mut Refused,
    ) -> BTreeSet<ListId> {
        let wanted: BTreeMap<PolicyPeer, PeerRow> = due
            .iter()
            .filter_map(|key| Some((key, *table.peers.get(key)?)))
            .filter_map(|(key, id)| {
                let row = rows::peer_row(id, table.ports.get(&id)?);
                let is_whole = row.ports == 0 || self.is_numbered(row.ports);
                is_whole.then(|| (rows::peer(*key), row))
            })
            .collect();
        refused.note(PEERS, self.peers.put(&wanted));
        let lacks = |key: &&PeerKey| {
            table.peers.contains_key(key) && {
                let key = rows::peer(**key);
                wanted.get(&key).is_none_or(|row| self.peers.known().get(&key) != Some(row))
            }
        };
        let lacking: Vec<PeerKey> = due.iter().filter(lacks).copied().collect();
        // A row that could not be replaced may allow more than it is to.
        let stale: Vec<PolicyPeer> = lacking.iter().map(|key| rows::peer(*key)).collect();
        refused.note(PEERS, self.peers.delete(&stale));
        let ranked =
            |list: &ListId| table.lists.get(list).is_none_or(|list| list.tier != Tier::NetworkPolicy);
        lacking.into_iter().map(|key| key.list).filter(ranked).collect()
    }

    /// Whether all rows of a number are there.
    fn is_numbered(&self, number: u32) -> bool {
        let rows = self.numbered.get(&number);
        rows.is_some_and(|rows| rows.iter().all(|key| self.ports.known().contains_key(key)))
    }

    /// Leads endpoints to their lists; returns those that keep what they have.
    fn switch(
        &mut self,
        table: &PolicyTable,
        interfaces: &BTreeMap<PodName, u32>,
        broken: &BTreeSet<ListId>,
        refused: &mut Refused,
    ) -> BTreeSet<PodName> {
        let mut stay = BTreeSet::new();
        let mut wanted = BTreeMap::new();
        for (pod, interface) in interfaces {
            let Some(policy) = table.endpoints.get(pod) else { continue };
            match rows::lists(policy).any(|list| broken.contains(&list)) {
                true => _ = stay.insert(pod.clone()),
                false => _ = wanted.insert(*interface, rows::endpoint(policy)),
            }
        }
        refused.note(POLICIES, self.endpoints.put(&wanted));
        for (pod, interface) in interfaces.iter().filter(|(pod, _)| table.endpoints.contains_key(pod)) {
            match self.endpoints.known().get(interface) {
                Some(row) if wanted.get(interface) == Some(row) => {
                    self.interfaces.insert(pod.clone(), *interface);
                }
                _ => _ = stay.insert(pod.clone()),
            }
        }
        stay
    }

    fn remove(
        &mut self,
        table: &PolicyTable,
        due: &PolicyChanged,
        interfaces: &BTreeMap<PodName, u32>,
        refused: &mut Refused,
    ) {
        let is_there = |pod: &PodName| table.endpoints.contains_key(pod) && interfaces.contains_key(pod);
        self.interfaces.retain(|pod, _| is_there(pod));
        if self.adopted {
            let used: BTreeSet<u32> = self.interfaces.values().copied().collect();
            let gone: Vec<u32> = self
                .endpoints
                .known()
                .keys()
                .filter(|interface| !used.contains(interface))
                .copied()
                .collect();
            refused.note(POLICIES, self.endpoints.delete(&gone));
        }
        refused.note(V4::PREFIXES, self.v4.delete(&rows::gone_prefixes(table, &due.prefixes)));
        refused.note(V6::PREFIXES, self.v6.delete(&rows::gone_prefixes(table, &due.prefixes)));
        let peers: Vec<PolicyPeer> = due
            .peers
            .iter()
            .filter(|key| !table.peers.contains_key(key))
            .map(|key| rows::peer(*key))
            .collect();
        refused.note(PEERS, self.peers.delete(&peers));
        let lists: Vec<u32> =
            due.lists.iter().filter(|id| !table.lists.contains_key(id)).map(|id| id.0).collect();
        refused.note(LISTS, self.lists.delete(&lists));
        for id in due.ports.iter().filter(|id| !table.ports.contains_key(id)) {
            if let Some(rows) = self.numbered.remove(&id.0) {
                refused.note(PORTS, self.ports.delete(&rows));
            }
        }
        refused.note(RULES, self.rules.remove(due.rules.iter().filter(|id| !table.rules.contains_key(id))));
    }

    /// Removes what a former agent left and `table` does not have.
    fn adopt(&mut self, table: &PolicyTable, interfaces: &BTreeMap<PodName, u32>, refused: &mut Refused) {
        if table.endpoints.is_empty() || !interfaces.keys().all(|pod| table.endpoints.contains_key(pod)) {
            // Not everybody's policy is known yet, and theirs may be what is there.
            return;
        }
        self.adopted = true;
        let wanted: BTreeSet<PolicyPeer> = table.peers.keys().map(|key| rows::peer(*key)).collect();
        let peers: Vec<_> = self.peers.known().keys().filter(|key| !wanted.contains(key)).copied().collect();
        refused.note(PEERS, self.peers.delete(&peers));
        let lists: Vec<u32> = self
            .lists
            .known()
            .keys()
            .filter(|id| !table.lists.contains_key(&ListId(**id)))
            .copied()
            .collect();
        refused.note(LISTS, self.lists.delete(&lists));
        let numbers: Vec<u32> =
            self.numbered.keys().filter(|id| !table.ports.contains_key(&PortsId(**id))).copied().collect();
        for rows in numbers.iter().filter_map(|id| self.numbered.remove(id)).collect::<Vec<_>>() {
            refused.note(PORTS, self.ports.delete(&rows));
        }
        let all = table.prefixes.keys().copied().collect();
        let (v4, v6) = (rows::prefixes::<V4>(table, &all), rows::prefixes::<V6>(table, &all));
        let stale: Vec<_> = self.v4.known().keys().filter(|key| !v4.contains_key(key)).copied().collect();
        refused.note(V4::PREFIXES, self.v4.delete(&stale));
        let stale: Vec<_> = self.v6.known().keys().filter(|key| !v6.contains_key(key)).copied().collect();
        refused.note(V6::PREFIXES, self.v6.delete(&stale));
        refused.note(RULES, self.rules.retain(|rule| table.rules.contains_key(&rule)));
        let due = PolicyChanged::default();
        self.remove(table, &due, interfaces, refused);
    }
}
