//! The thread that owns the dataplane: nothing else ever touches the kernel through it.
//!
//! Takes what arrived in one go, programs it once, answers questions between two steps. When the agent stops,
//! the thread ends and the kernel keeps forwarding.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::{Duration, Instant},
};

use cluster::Causes;
use dataplane::{Dataplane, Key, ObjectState, Reconciler, Step, Timing};
use model::{Family, Generation, Update};
use tokio::sync::{oneshot, watch};

use crate::metrics::Metrics;

/// Longest sleep without anything to do; every wake-up is cheap.
const IDLE: Duration = Duration::from_secs(3600);

/// How far the dataplane is.
#[derive(Clone, Debug, Default)]
pub(crate) struct Progress {
    pub(crate) programmed: Generation,
    /// Since when an update waits, for each family of which one does.
    pub(crate) pending_since: BTreeMap<Family, Instant>,
    /// When the plane accepted the last one of each family.
    pub(crate) updated: BTreeMap<Family, Instant>,
}

type Question = Box<dyn FnOnce(&mut Reconciler) + Send>;
type Answer = oneshot::Sender<Result<(), String>>;

/// What was handed over and not yet taken: merged, so that a plane that is slower than the cluster costs the memory of
/// the keys that moved, not of every move.
type Handed = Arc<Mutex<Option<(Update, Causes)>>>;

enum Command {
    /// There is something in [`Handed`].
    Take,
    Wait(Key, Answer),
    Ask(Question),
}

/// The handle on the thread. The thread ends when the last handle is dropped.
#[derive(Clone, Debug)]
pub(crate) struct Worker {
    commands: mpsc::Sender<Command>,
    handed: Handed,
    progress: watch::Receiver<Progress>,
}

/// The thread is gone, which only a bug in a plane brings about.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the dataplane thread has ended")]
pub(crate) struct Gone;

impl Worker {
    /// Starts the thread. The namespace it works in is the one of the calling thread.
    pub(crate) fn start(
        plane: Box<dyn Dataplane>,
        timing: Timing,
        metrics: Metrics,
    ) -> std::io::Result<Self> {
        let (commands, inbox) = mpsc::channel();
        let (publish, progress) = watch::channel(Progress::default());
        let handed = Handed::default();
        let working = Loop {
            reconciler: Reconciler::new(plane, timing),
            handed: Arc::clone(&handed),
            causes: Causes::default(),
            waiting: vec![],
            publish,
            metrics,
        };
        thread::Builder::new().name("dataplane".into()).spawn(move || working.run(&inbox))?;
        Ok(Self { commands, handed, progress })
    }

    /// Hands over what moved, and why.
    pub(crate) fn update(&self, update: Update, causes: Causes) -> Result<(), Gone> {
        match &mut *self.handed.lock().unwrap_or_else(PoisonError::into_inner) {
            Some((earlier, earlier_causes)) => {
                earlier.merge(update);
                earlier_causes.merge(causes);
                return Ok(());
            }
            none => *none = Some((update, causes)),
        }
        self.send(Command::Take)
    }

    /// Answers once `key`, as of everything handed over before, is programmed (or removed), or has failed.
    pub(crate) fn wait(&self, key: Key, answer: Answer) -> Result<(), Gone> {
        self.send(Command::Wait(key, answer))
    }

    /// Puts `question` to the reconciler, between two steps.
    pub(crate) async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&mut Reconciler) -> T + Send + 'static,
    ) -> Result<T, Gone> {
        let (answer, reply) = oneshot::channel();
        // Nobody may be interested any more: then the answer is dropped.
        self.send(Command::Ask(Box::new(|reconciler| drop(answer.send(question(reconciler))))))?;
        reply.await.map_err(|_| Gone)
    }

    pub(crate) fn progress(&self) -> Progress {
        self.progress.borrow().clone()
    }

    /// Changes whenever something was programmed.
    pub(crate) fn steps(&self) -> watch::Receiver<Progress> {
        self.progress.clone()
    }

    /// Returns when the thread has ended.
    pub(crate) async fn ended(&self) -> Gone {
        let mut progress = self.progress.clone();
        while progress.changed().await.is_ok() {}
        Gone
    }

    fn send(&self, command: Command) -> Result<(), Gone> {
        self.commands.send(command).map_err(|_| Gone)
    }
}

struct Loop {
    reconciler: Reconciler,
    handed: Handed,
    /// Of what is not programmed yet.
    causes: Causes,
    waiting: Vec<(Key, Answer)>,
    publish: watch::Sender<Progress>,
    metrics: Metrics,
}

impl Loop {
    fn run(mut self, inbox: &mpsc::Receiver<Command>) {
        loop {
            let now = Instant::now();
            let due = self.reconciler.next_due(now).map_or(IDLE, |due| due.saturating_duration_since(now));
            match inbox.recv_timeout(due) {
                Ok(command) => {
                    self.take(command);
                    while let Ok(command) = inbox.try_recv() {
                        self.take(command);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            self.step();
        }
    }

    fn take(&mut self, command: Command) {
        // Before anything else: a wait or a question is about what was handed over before it.
        self.take_handed();
        match command {
            Command::Take => {}
            Command::Wait(key, answer) => self.waiting.push((key, answer)),
            Command::Ask(question) => question(&mut self.reconciler),
        }
    }

    fn take_handed(&mut self) {
        let handed = self.handed.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some((update, causes)) = handed else { return };
        self.reconciler.submit(update, Instant::now());
        self.causes.merge(causes);
        self.metrics.queued(&self.causes);
        let pending_since = self.reconciler.pending_since().clone();
        self.publish.send_modify(|progress| progress.pending_since = pending_since);
    }

    fn step(&mut self) {
        let started = Instant::now();
        let step = self.reconciler.step(started);
        log(&step, started.elapsed(), self.reconciler.programmed());
        if step.tried > 0 {
            let done = step.error.is_none().then(|| std::mem::take(&mut self.causes));
            self.metrics.synced(started.elapsed(), done);
        }
        let programmed = self.reconciler.programmed();
        let pending_since = self.reconciler.pending_since();
        self.publish.send_if_modified(|progress| {
            let moved = progress.programmed != programmed || progress.pending_since != *pending_since;
            if moved {
                let done = Family::ALL.into_iter().filter(|family| !pending_since.contains_key(family));
                progress.updated.extend(done.map(|family| (family, Instant::now())));
            }
            progress.programmed = programmed;
            progress.pending_since.clone_from(pending_since);
            moved
        });
        self.answer_waiting();
    }

    fn answer_waiting(&mut self) {
        for (key, answer) in std::mem::take(&mut self.waiting) {
            let result = match self.reconciler.state(&key) {
                None | Some((ObjectState::Programmed, _)) => Ok(()),
                Some((ObjectState::Pending, _)) => {
                    self.waiting.push((key, answer));
                    continue;
                }
                Some((_, reason)) => Err(reason.unwrap_or("refused").to_owned()),
            };
            // The asker may have given up.
            drop(answer.send(result));
        }
    }
}

fn log(step: &Step, took: Duration, programmed: Generation) {
    if step.tried > 0 {
        let failed = step.failed.len();
        tracing::debug!(tried = step.tried, failed, ?took, generation = programmed.0, "programmed");
    }
    for (key, reason) in &step.failed {
        tracing::warn!(?key, reason, "not programmed, will try again");
    }
    for repaired in &step.repaired {
        tracing::warn!("repaired: {repaired}");
    }
    if let Some(error) = &step.error {
        tracing::error!("{}", error.with_causes());
    }
}

#[cfg(test)]
mod tests {
    use dataplane::fake::Fake;
    use model::{Endpoint, MacAddress, NodeConfig, PodName};

    use super::*;

    fn endpoint(name: &str) -> (PodName, Option<std::sync::Arc<Endpoint>>) {
        let pod = PodName { namespace: "ns".into(), name: name.into() };
        let endpoint = Endpoint {
            pod: pod.clone(),
            addresses: vec![],
            interface: String::new(),
            ifindex: 1,
            mac: MacAddress::default(),
            host_mac: MacAddress::default(),
            netns: None,
            l7: Default::default(),
        };
        (pod, Some(endpoint.into()))
    }

    fn update(generation: u64, name: &str) -> Update {
        Update {
            generation: Generation(generation),
            node: Some(NodeConfig { name: "n".into(), ..NodeConfig::default() }),
            endpoints: [endpoint(name)].into(),
            ..Update::default()
        }
    }

    #[tokio::test]
    async fn waiting_for_a_key_ends_when_the_kernel_has_it_or_refuses_it() {
        let fake = Fake::default();
        let key = |name| Key::Endpoint(endpoint(name).0);
        fake.kernel().refused.insert(key("bad"), "no room".into());
        let worker =
            Worker::start(Box::new(fake.clone()), Timing::default(), Metrics::default()).expect("start");
        for (generation, name, expected) in
            [(1, "good", Ok(())), (2, "bad", Err("insert endpoint ns/bad: no room".to_owned()))]
        {
            let (answer, reply) = oneshot::channel();
            worker.update(update(generation, name), Causes::default()).expect("alive");
            worker.wait(key(name), answer).expect("alive");
            assert_eq!(reply.await.expect("an answer"), expected);
        }
        assert!(fake.kernel().endpoints.contains_key(&endpoint("good").0));
        assert_eq!(worker.progress().programmed, Generation(2));
        let wanted = worker.ask(|reconciler| reconciler.wanted().endpoints.len()).await.expect("alive");
        assert_eq!(wanted, 2);
    }

    /// A plane that is busy until it is let go.
    struct Busy {
        inner: Fake,
        go: mpsc::Receiver<()>,
    }

    impl Dataplane for Busy {
        fn plane(&self) -> model::Plane {
            self.inner.plane()
        }
        fn apply(
            &mut self,
            snapshot: &model::Snapshot,
            changed: &model::Changed,
        ) -> Result<dataplane::Applied, dataplane::Error> {
            // The sender lives as long as the test.
            let _ = self.go.recv();
            self.inner.apply(snapshot, changed)
        }
        fn repair(&mut self, snapshot: &model::Snapshot) -> Result<Vec<String>, dataplane::Error> {
            self.inner.repair(snapshot)
        }
        fn services(&self) -> Result<Vec<dataplane::ServiceRow>, dataplane::Error> {
            self.inner.services()
        }
        fn connections(&self, limit: usize) -> Result<Vec<dataplane::Connection>, dataplane::Error> {
            self.inner.connections(limit)
        }
        fn status(&self) -> dataplane::PlaneStatus {
            self.inner.status()
        }
        fn clean_up(&mut self) -> Result<(), dataplane::Error> {
            self.inner.clean_up()
        }
    }

    #[tokio::test]
    async fn a_hundred_thousand_updates_to_a_busy_plane_cost_the_keys_that_moved_and_end_in_the_last_state() {
        const UPDATES: u64 = 100_000;
        let (let_go, go) = mpsc::channel();
        let fake = Fake::default();
        let busy = Busy { inner: fake.clone(), go };
        let worker = Worker::start(Box::new(busy), Timing::default(), Metrics::default()).expect("start");
        for number in 1..=UPDATES {
            let mut update = update(number, &format!("pod-{}", number % 100));
            for endpoint in update.endpoints.values_mut().flatten() {
                std::sync::Arc::make_mut(endpoint).ifindex = number as u32;
            }
            let causes = Causes { services: 1, slices: 1, triggers: vec![jiff::Timestamp::now()] };
            worker.update(update, causes).expect("alive");
        }
        let handed = || worker.handed.lock().unwrap_or_else(PoisonError::into_inner);
        let (keys, triggers) = handed()
            .as_ref()
            .map_or((0, 0), |(update, causes)| (update.endpoints.len(), causes.triggers.len()));
        assert!((1..=100).contains(&keys), "{keys} keys wait");
        assert!(triggers < 10_000, "{triggers} times wait");
        // Two rounds: what the plane was busy with, and all that came meanwhile.
        for _ in 0..3 {
            let_go.send(()).expect("alive");
        }
        let (answer, reply) = oneshot::channel();
        worker.wait(Key::Endpoint(endpoint("pod-0").0), answer).expect("alive");
        assert_eq!(reply.await.expect("an answer"), Ok(()));
        let kernel = fake.kernel();
        assert!(kernel.applies <= 3, "{} rounds", kernel.applies);
        let last: Vec<u64> = kernel.endpoints.values().map(|endpoint| endpoint.ifindex.into()).collect();
        assert_eq!(last.len(), 100);
        assert!(last.iter().all(|number| *number > UPDATES - 100), "{last:?}");
    }

    #[tokio::test]
    async fn a_plane_that_panics_is_noticed() {
        let worker =
            Worker::start(Box::new(Fake::default()), Timing::default(), Metrics::default()).expect("start");
        let asked = worker.ask(|_| -> () { panic!("a bug in a plane") }).await;
        assert!(asked.is_err());
        worker.ended().await;
    }
}
