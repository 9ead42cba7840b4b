//! Keeps a plane in step with what is wanted: coalesces updates, retries what failed, repairs what drifted.
//!
//! Guarantees, each a test of that name in `tests/reconcile.rs`:
//! a burst is programmed once; one object's failure never holds up another; a failed object is tried again after
//! a growing, bounded pause, and at once when it changes; after a start everything is programmed and whatever
//! an earlier run left is repaired away; drift is repaired periodically.
//!
//! Never reads a clock: [`Reconciler::step`] is told the time. Never blocks but in the plane itself.

use std::{
    collections::BTreeMap,
    fmt,
    time::{Duration, Instant},
};

use model::{Changed, Family, Generation, Snapshot, Update};

use crate::{
    Dataplane, Error, Key,
    retry::{Backoff, Retries},
    status::{ObjectState, ObjectStatus},
};

/// When things are done again.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    pub retry: Backoff,
    /// Between two comparisons of the whole kernel state.
    pub repair_every: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self { retry: Backoff::default(), repair_every: Duration::from_secs(60) }
    }
}

/// Drives one [`Dataplane`].
pub struct Reconciler {
    plane: Box<dyn Dataplane>,
    timing: Timing,
    wanted: Snapshot,
    pending: Changed,
    /// Since when the plane has not taken what a family is to have.
    pending_since: BTreeMap<Family, Instant>,
    retries: Retries,
    next_repair: Option<Instant>,
    programmed: Generation,
    records: BTreeMap<Key, Record>,
}

/// What is known of one key that is wanted or still in the kernel.
#[derive(Debug)]
struct Record {
    state: ObjectState,
    reason: Option<String>,
    /// Of the snapshot that last moved the key.
    generation: Generation,
}

/// What one [`Reconciler::step`] did.
#[derive(Debug, Default)]
pub struct Step {
    /// Keys that were handed to the plane.
    pub tried: usize,
    /// What it could not do, in words.
    pub failed: Vec<(Key, String)>,
    /// What had drifted and was repaired, in words.
    pub repaired: Vec<String>,
    /// Why nothing at all could be programmed, or the repair could not be done.
    pub error: Option<Error>,
}

impl Reconciler {
    /// Takes over `plane`. Whatever an earlier run left in the kernel keeps working until the first step.
    pub fn new(plane: Box<dyn Dataplane>, timing: Timing) -> Self {
        Self {
            plane,
            timing,
            wanted: Snapshot::default(),
            pending: Changed::default(),
            pending_since: BTreeMap::new(),
            retries: Retries::new(timing.retry),
            next_repair: None,
            programmed: Generation::default(),
            records: BTreeMap::new(),
        }
    }

    /// Notes what is wanted from now on. Nothing is programmed before the next [`Self::step`].
    pub fn submit(&mut self, update: Update, now: Instant) {
        let changed = self.wanted.advance(update);
        if changed.is_empty() && !self.pending.is_empty() {
            return;
        }
        for key in keys(&changed) {
            self.retries.forget(&key);
            let record =
                Record { state: ObjectState::Pending, reason: None, generation: self.wanted.generation };
            self.records.insert(key, record);
        }
        if changed.is_empty() {
            self.programmed = self.wanted.generation;
        } else {
            for family in families(&changed) {
                self.pending_since.entry(family).or_insert(now);
            }
            self.pending.merge(changed);
        }
    }

    /// Does what is due at `now`: programs what changed, tries again what failed, repairs what drifted.
    pub fn step(&mut self, now: Instant) -> Step {
        let mut step = Step::default();
        self.program(now, &mut step);
        // Before the first update nothing is known to be wanted, so nothing may be repaired away.
        let started = self.programmed > Generation::default();
        if started && step.error.is_none() && self.next_repair.is_none_or(|due| due <= now) {
            self.next_repair = Some(now + self.timing.repair_every);
            match self.plane.repair(&self.wanted) {
                Ok(repaired) => step.repaired = repaired,
                Err(error) => step.error = Some(error),
            }
        }
        step
    }

    fn program(&mut self, now: Instant, step: &mut Step) {
        let mut changed = std::mem::take(&mut self.pending);
        for key in self.retries.due(now) {
            name(&mut changed, key);
        }
        if changed.is_empty() {
            return;
        }
        let tried = keys(&changed);
        step.tried = tried.len();
        match self.plane.apply(&self.wanted, &changed) {
            Ok(applied) => {
                self.pending_since.retain(|family, _| applied.refused.contains(family));
                for family in applied.refused {
                    self.pending_since.entry(family).or_insert(now);
                }
                self.programmed = self.wanted.generation;
                let mut failed = applied.failed;
                for key in tried {
                    match failed.remove(&key) {
                        Some(error) => self.fail(key, &error, now, step),
                        None => self.succeed(&key),
                    }
                }
            }
            Err(error) => {
                for key in tried {
                    self.fail(key, &error, now, step);
                }
                step.error = Some(error);
            }
        }
    }

    fn succeed(&mut self, key: &Key) {
        self.retries.forget(key);
        // There are as many addresses as pods in the cluster: those that the kernel has are not worth a record each.
        if !key.is_in(&self.wanted) || matches!(key, Key::Address(_)) {
            self.records.remove(key);
        } else if let Some(record) = self.records.get_mut(key) {
            record.state = ObjectState::Programmed;
            record.reason = None;
        }
    }

    fn fail(&mut self, key: Key, error: &Error, now: Instant, step: &mut Step) {
        let reason = error.with_causes();
        self.retries.failed(key.clone(), now);
        if let Some(record) = self.records.get_mut(&key) {
            record.state = ObjectState::Failed;
            record.reason = Some(reason.clone());
        }
        step.failed.push((key, reason));
    }

    /// When [`Self::step`] has something to do next; `None` while only an update can bring work.
    pub fn next_due(&self, now: Instant) -> Option<Instant> {
        if !self.pending.is_empty() {
            return Some(now);
        }
        self.retries.next_due().into_iter().chain(self.next_repair).min()
    }

    /// The last snapshot that the plane accepted, single failed objects aside.
    pub fn programmed(&self) -> Generation {
        self.programmed
    }

    /// Since when an update waits that the plane has not accepted, for each family of which one waits.
    pub fn pending_since(&self) -> &BTreeMap<Family, Instant> {
        &self.pending_since
    }

    /// What is wanted.
    pub fn wanted(&self) -> &Snapshot {
        &self.wanted
    }

    /// The state of one key; `None` where it is neither wanted nor still to be removed.
    pub fn state(&self, key: &Key) -> Option<(ObjectState, Option<&str>)> {
        self.records.get(key).map(|record| (record.state, record.reason.as_deref()))
    }

    /// The state of every key, in order of key.
    pub fn objects(&self) -> Vec<ObjectStatus> {
        let status = |(key, record): (&Key, &Record)| {
            let (kind, name) = key.object();
            ObjectStatus {
                kind: kind.to_owned(),
                name,
                state: record.state,
                field: None,
                reason: record.reason.clone(),
                generation: record.generation,
            }
        };
        self.records.iter().map(status).collect()
    }

    pub fn plane(&self) -> &dyn Dataplane {
        &*self.plane
    }

    /// For clean-up; what the plane is made to do behind the reconciler's back is repaired later.
    pub fn plane_mut(&mut self) -> &mut dyn Dataplane {
        &mut *self.plane
    }
}

impl fmt::Debug for Reconciler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reconciler")
            .field("plane", &self.plane.plane())
            .field("programmed", &self.programmed)
            .field("records", &self.records)
            .finish_non_exhaustive()
    }
}

fn keys(changed: &Changed) -> Vec<Key> {
    let services = changed.services.iter().cloned().map(Key::Service);
    let endpoints = changed.endpoints.iter().cloned().map(Key::Endpoint);
    let peers = changed.peers.iter().cloned().map(Key::Peer);
    let addresses = changed.addresses.iter().copied().map(Key::Address);
    let policy = (!changed.policy.is_empty()).then_some(Key::Policy);
    let node = changed.node.then_some(Key::Node);
    services.chain(endpoints).chain(peers).chain(addresses).chain(policy).chain(node).collect()
}

/// The families that `changed` concerns: all of them, where it is not Services' and addresses' only.
fn families(changed: &Changed) -> impl Iterator<Item = Family> {
    let pods = !changed.endpoints.is_empty() || !changed.peers.is_empty() || !changed.policy.is_empty();
    let services_only = !changed.node && !pods;
    let concerned = |family: &Family| {
        changed.services.iter().any(|id| id.family == *family)
            || changed.addresses.iter().any(|prefix| Family::of(prefix.addr()) == *family)
    };
    Family::ALL.into_iter().filter(move |family| !services_only || concerned(family))
}

fn name(changed: &mut Changed, key: Key) {
    match key {
        Key::Service(id) => _ = changed.services.insert(id),
        Key::Endpoint(pod) => _ = changed.endpoints.insert(pod),
        Key::Peer(peer) => _ = changed.peers.insert(peer),
        Key::Address(prefix) => _ = changed.addresses.insert(prefix),
        Key::Policy => changed.policy.again = true,
        Key::Node => changed.node = true,
    }
}
