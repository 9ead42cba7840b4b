//! Identities between nodes: agents that see the API server's state late, in their own time, write to it at once, start anew
//! and collect. Whatever the order, no number ever stands for the wrong labels, and in the end all agree.

mod pods;

use std::collections::{BTreeMap, BTreeSet};

use cluster::{EndpointView, Index, News, TwinplaneIdentity, Wish};
use ipnet::IpNet;
use k8s_openapi::{
    api::{
        core::v1::{Namespace, Node, Pod, Service},
        discovery::v1::EndpointSlice,
    },
    jiff::{SignedDuration, Timestamp},
};
use kube::runtime::watcher::Event;
use model::{Endpoint, IdentityId, Labels, MacAddress, PodName, Reserved, Snapshot};
use proptest::prelude::*;
use serde_json::json;

use self::pods::{address, endpoint, name, object, wanted};
use crate::{
    api::{Api, Told},
    support::{node, read},
};

const NODES: [&str; 3] = ["node-a", "node-b", "node-c"];
const SETS: usize = 3;
const PODS: usize = 4;

/// An agent: what it has heard, and what it was about to write.
struct Agent {
    place: usize,
    index: Index,
    snapshot: Snapshot,
    told: ToldOf,
    heard: usize,
    held: Vec<Wish>,
    /// Labels of its pods.
    pods: BTreeMap<usize, usize>,
}

/// Who is who, as someone knows it who only hears the news.
#[derive(Default)]
struct ToldOf {
    endpoints: BTreeMap<PodName, EndpointView>,
    labels: BTreeMap<IdentityId, Vec<String>>,
}

impl ToldOf {
    fn learn(&mut self, news: News) {
        for (pod, view) in news.endpoints {
            match view {
                Some(view) => _ = self.endpoints.insert(pod, view),
                None => _ = self.endpoints.remove(&pod),
            }
        }
        for (id, labels) in news.identities {
            match labels {
                Some(labels) => _ = self.labels.insert(id, labels),
                None => _ = self.labels.remove(&id),
            }
        }
    }

    fn endpoints(&self) -> Vec<EndpointView> {
        let labels = |id| match Reserved::from_id(id) {
            Some(reserved) => reserved.labels().texts().collect(),
            None => self.labels.get(&id).cloned().unwrap_or_default(),
        };
        let view = |view: &EndpointView| EndpointView { labels: labels(view.identity), ..view.clone() };
        self.endpoints.values().map(view).collect()
    }
}

impl Agent {
    fn start(place: usize, api: &Api, pods: BTreeMap<usize, usize>) -> Self {
        let cluster_cidrs = vec!["10.20.0.0/16".parse().expect("prefix")];
        let node_ports = model::NodePortAddresses::All;
        let settings = cluster::Settings { node: NODES[place].into(), cluster_cidrs, node_ports };
        let (snapshot, told) = (Snapshot::default(), ToldOf::default());
        let mut this = Self {
            place,
            index: Index::new(settings),
            snapshot,
            told,
            heard: api.log.len(),
            held: vec![],
            pods,
        };
        for (pod, _) in this.pods.clone() {
            this.index.set_endpoint(endpoint(place, pod));
        }
        this.index.set_endpoints_known();
        this.list::<Service>(vec![]);
        this.list::<EndpointSlice>(vec![]);
        this.list(NODES.map(|name| read::<Node>(&node(name, json!({})))).into());
        this.list(vec![read::<Namespace>(&json!({"metadata": {"name": "d", "labels": {"team": "x"}}}))]);
        this.list(this.pods.iter().map(|(pod, set)| object(place, *pod, *set)).collect());
        this.list(api.identities.values().cloned().collect());
        this.list(api.endpoints.values().cloned().collect());
        this.settle();
        this
    }

    fn list<K: cluster::Kind>(&mut self, objects: Vec<K>) {
        self.index.observe(Event::<K>::Init);
        for object in objects {
            self.index.observe(Event::InitApply(object));
        }
        self.index.observe(Event::<K>::InitDone);
    }

    fn settle(&mut self) {
        if let Some(update) = self.index.take_update() {
            self.snapshot.advance(update);
        }
        self.told.learn(self.index.take_news());
        assert_eq!(self.told.endpoints(), self.index.endpoint_views(), "news lead to what is known");
    }

    fn hear(&mut self, api: &Api, events: usize) {
        for told in api.log.iter().skip(self.heard).take(events) {
            match told.clone() {
                Told::Identity(event) => self.index.observe(event),
                Told::Endpoint(event) => self.index.observe(event),
            }
            self.heard += 1;
        }
        self.settle();
    }

    fn think(&mut self, now: Timestamp) {
        if let Some(wishes) = self.index.take_wishes(now, true) {
            self.held = wishes;
        }
    }

    fn identity(&self, place: usize, pod: usize) -> Option<IdentityId> {
        let prefix = IpNet::from(address(place, pod));
        self.snapshot.addresses.get(&prefix).copied()
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Add {
        agent: usize,
        pod: usize,
        set: usize,
    },
    Remove {
        agent: usize,
        pod: usize,
    },
    Relabel {
        agent: usize,
        pod: usize,
        set: usize,
    },
    Hear {
        agent: usize,
        events: usize,
    },
    Think {
        agent: usize,
    },
    Grant {
        agent: usize,
        wish: usize,
    },
    /// Somebody else has the number that a set would like, or the one after.
    Squat {
        set: usize,
        offset: u32,
    },
    Leave {
        set: usize,
        offset: u32,
    },
    Restart {
        agent: usize,
    },
    /// Long enough for a collection. No watch lags that long, so that all hear and call off first.
    Wait,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let (agent, pod, set) = (0..NODES.len(), 0..PODS, 0..SETS);
    let step = prop_oneof![
        3 => (agent.clone(), pod.clone(), set.clone()).prop_map(|(agent, pod, set)| Step::Add { agent, pod, set }),
        1 => (agent.clone(), pod.clone()).prop_map(|(agent, pod)| Step::Remove { agent, pod }),
        1 => (agent.clone(), pod, set.clone()).prop_map(|(agent, pod, set)| Step::Relabel { agent, pod, set }),
        6 => (agent.clone(), 1..4usize).prop_map(|(agent, events)| Step::Hear { agent, events }),
        6 => agent.clone().prop_map(|agent| Step::Think { agent }),
        8 => (agent.clone(), 0..3usize).prop_map(|(agent, wish)| Step::Grant { agent, wish }),
        1 => (set.clone(), 0..2u32).prop_map(|(set, offset)| Step::Squat { set, offset }),
        1 => (set, 0..2u32).prop_map(|(set, offset)| Step::Leave { set, offset }),
        1 => agent.prop_map(|agent| Step::Restart { agent }),
        1 => Just(Step::Wait),
    ];
    prop::collection::vec(step, 1..120)
}

struct World {
    api: Api,
    agents: Vec<Agent>,
    now: Timestamp,
    wanted: Vec<(IdentityId, Labels)>,
}

impl World {
    fn new() -> Self {
        let api = Api::default();
        let agents = (0..NODES.len()).map(|place| Agent::start(place, &api, BTreeMap::new())).collect();
        Self { api, agents, now: Timestamp::UNIX_EPOCH, wanted: (0..SETS).map(wanted).collect() }
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Add { agent, pod, set } => {
                let agent = &mut self.agents[agent];
                if agent.pods.insert(pod, set).is_none() {
                    agent.index.set_endpoint(endpoint(agent.place, pod));
                }
                agent.index.observe(Event::Apply(object(agent.place, pod, set)));
                agent.settle();
            }
            Step::Remove { agent, pod } => {
                let agent = &mut self.agents[agent];
                if let Some(set) = agent.pods.remove(&pod) {
                    agent.index.remove_endpoint(&name(agent.place, pod));
                    agent.index.observe(Event::Delete(object(agent.place, pod, set)));
                    agent.settle();
                }
            }
            Step::Relabel { agent, pod, set } => {
                let agent = &mut self.agents[agent];
                if let Some(of) = agent.pods.get_mut(&pod) {
                    *of = set;
                    agent.index.observe(Event::Apply(object(agent.place, pod, set)));
                    agent.settle();
                }
            }
            Step::Hear { agent, events } => self.agents[agent].hear(&self.api, events),
            Step::Think { agent } => self.agents[agent].think(self.now),
            Step::Grant { agent, wish } => {
                let held = &mut self.agents[agent].held;
                if wish < held.len() {
                    self.api.grant(held.remove(wish));
                }
            }
            Step::Squat { set, offset } => {
                let id = self.near(set, offset);
                if !self.api.identities.contains_key(&id) {
                    let foreign = Labels::from_iter([("k8s:foreign".to_owned(), id.to_string())]);
                    self.api.put_identity(TwinplaneIdentity::new(id, foreign));
                }
            }
            Step::Leave { set, offset } => {
                let id = self.near(set, offset);
                let there = self.api.identities.get(&id);
                if there.is_some_and(|identity| identity.spec.labels.get("k8s:foreign").is_some()) {
                    self.api.remove_identity(id);
                }
            }
            Step::Restart { agent } => {
                let pods = std::mem::take(&mut self.agents[agent].pods);
                self.agents[agent] = Agent::start(agent, &self.api, pods);
            }
            Step::Wait => {
                for agent in &mut self.agents {
                    agent.held.clear();
                }
                self.round();
                self.round();
                self.now += SignedDuration::from_mins(11);
            }
        }
    }

    fn near(&self, set: usize, offset: u32) -> IdentityId {
        IdentityId::of_cluster(self.wanted[set].0.get() - IdentityId::FIRST + offset)
    }

    /// Everybody hears everything and does all it wishes.
    fn round(&mut self) -> Vec<Wish> {
        let mut granted = vec![];
        for agent in &mut self.agents {
            agent.hear(&self.api, usize::MAX);
            agent.think(self.now);
            for wish in std::mem::take(&mut agent.held) {
                granted.push(wish.clone());
                self.api.grant(wish);
            }
        }
        granted
    }

    /// A number that any pod has stands for labels of one of the sets, and never for foreign ones.
    fn is_safe(&self) -> Result<(), TestCaseError> {
        for agent in &self.agents {
            for pod in agent.pods.keys() {
                let id = agent.identity(agent.place, *pod);
                prop_assert!(id.is_some(), "a pod without any identity");
                let id = id.unwrap_or_default();
                let labels = self.api.identities.get(&id).map(|identity| &identity.spec.labels);
                let ours = |labels: &&Labels| self.wanted.iter().any(|(_, wanted)| wanted == *labels);
                let init = id == Reserved::Init.id();
                prop_assert!(init || labels.is_none_or(|labels| ours(&labels)), "{id} of {pod}: {labels:?}");
            }
        }
        Ok(())
    }

    fn agrees(&mut self) -> Result<(), TestCaseError> {
        let mut last = vec![];
        let quiet = (0..50).any(|_| {
            last = self.round();
            last.is_empty()
        });
        prop_assert!(quiet, "never quiet: {:?}", last);
        let all: Vec<_> = self
            .agents
            .iter()
            .flat_map(|agent| agent.pods.iter().map(|(pod, set)| (agent.place, *pod, *set)))
            .collect();
        let mut numbers = BTreeMap::<usize, BTreeSet<IdentityId>>::new();
        for (place, pod, set) in &all {
            for agent in &self.agents {
                let id = agent.identity(*place, *pod).unwrap_or_default();
                let labels = self.api.identities.get(&id).map(|identity| &identity.spec.labels);
                let wanted = Some(&self.wanted[*set].1);
                prop_assert_eq!(labels, wanted, "{} of {}-{} at {}", id, place, pod, agent.place);
                numbers.entry(*set).or_default().insert(id);
            }
        }
        prop_assert!(numbers.values().all(|numbers| numbers.len() == 1), "{:?}", numbers);
        prop_assert_eq!(self.api.endpoints.len(), all.len());
        let rows = 4 + all.len() + NODES.len() - 1;
        for agent in &self.agents {
            prop_assert!(agent.snapshot.addresses.len() <= rows, "{:?}", agent.snapshot.addresses);
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn whatever_the_order_no_number_is_misused_and_all_agree_in_the_end(steps in steps()) {
        let mut world = World::new();
        for step in steps {
            world.take(step);
            world.is_safe()?;
        }
        world.agrees()?;
        // Seen unused, marked, removed.
        for _ in 0..3 {
            world.take(Step::Wait);
            world.agrees()?;
        }
        let used: BTreeSet<usize> = world.agents.iter().flat_map(|agent| agent.pods.values().copied()).collect();
        prop_assert_eq!(world.api.identities.len(), used.len());
    }
}
