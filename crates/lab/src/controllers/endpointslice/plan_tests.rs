//! Endpoints of one Service as pods come, change and go; and how few writes that takes.

use serde_json::{Value, json};

use super::*;

fn service(spec: Value) -> Service {
    let mut spec = spec;
    if spec.get("selector").is_none() {
        spec["selector"] = json!({"app": "web"});
    }
    serde_json::from_value(json!({
        "metadata": {"name": "web", "namespace": "test", "uid": "s-1", "labels": {"team": "a"}}, "spec": spec,
    }))
    .expect("service")
}

fn plain() -> Service {
    service(
        json!({"ports": [{"port": 80, "targetPort": 8080}], "clusterIP": "10.24.0.9", "ipFamilies": ["IPv4"]}),
    )
}

/// A ready pod number `n` on node-a or node-b.
fn pod(n: usize) -> Arc<Pod> {
    Arc::new(
        serde_json::from_value(json!({
            "metadata": {"name": format!("web-{n}"), "namespace": "test", "uid": format!("p-{n}"), "labels": {"app": "web"}},
            "spec": {
                "nodeName": if n.is_multiple_of(2) { "node-a" } else { "node-b" },
                "containers": [{"name": "c", "ports": [{"name": "http", "containerPort": 8000 + n % 2}]}],
            },
            "status": {
                "phase": "Running",
                "podIPs": [{"ip": format!("10.20.{}.{}", n / 200, n % 200 + 1)}, {"ip": format!("fd00::{:x}", n + 1)}],
                "conditions": [{"type": "Ready", "status": "True"}],
            },
        }))
        .expect("pod"),
    )
}

fn edit(pod: &mut Arc<Pod>, change: impl FnOnce(&mut Pod)) {
    change(Arc::make_mut(pod));
}

fn unready(pod: &mut Pod) {
    let conditions = pod.status.as_mut().and_then(|status| status.conditions.as_mut()).expect("conditions");
    conditions[0].status = "False".to_owned();
}

fn terminating(pod: &mut Pod) {
    pod.metadata.deletion_timestamp =
        Some(super::super::super::meta::api_time(k8s_openapi::jiff::Timestamp::UNIX_EPOCH));
}

/// The slices as the API has them; applies plans and counts writes.
#[derive(Default)]
struct Api {
    slices: Vec<Arc<EndpointSlice>>,
    writes: usize,
}

impl Api {
    fn apply(&mut self, actions: Vec<Action>) {
        for action in actions {
            self.writes += 1;
            match action {
                Action::Create(slice) => {
                    assert!(
                        self.slices.iter().all(|other| other.metadata.name != slice.metadata.name),
                        "taken"
                    );
                    self.slices.push(slice);
                }
                Action::Replace(slice) => {
                    let old = self.slices.iter_mut().find(|old| old.metadata.name == slice.metadata.name);
                    *old.expect("exists") = slice;
                }
                Action::Delete(slice) => {
                    self.slices.retain(|other| other.metadata.name != slice.metadata.name)
                }
            }
        }
    }

    /// Brings the slices in step; returns how many writes it took.
    fn sync(&mut self, service: &Service, pods: &[Arc<Pod>]) -> usize {
        let node =
            json!({"metadata": {"name": "node-a", "labels": {"topology.kubernetes.io/zone": "zone-a"}}});
        let zones = Zones::of(&[Arc::new(serde_json::from_value(node).expect("node"))]);
        self.writes = 0;
        self.apply(plan(service, pods, &zones, &self.slices));
        let writes = self.writes;
        assert!(plan(service, pods, &zones, &self.slices).is_empty(), "a second pass changes nothing");
        writes
    }

    fn sizes(&self) -> Vec<usize> {
        self.slices.iter().map(|slice| slice.endpoints.len()).collect()
    }

    fn endpoint(&self, pod: &str) -> &Endpoint {
        let mut all = self.slices.iter().flat_map(|slice| &slice.endpoints);
        all.find(|e| e.target_ref.as_ref().and_then(|target| target.name.as_deref()) == Some(pod)).expect(pod)
    }

    /// ready, serving, terminating.
    fn conditions(&self, pod: &str) -> [bool; 3] {
        let conditions = self.endpoint(pod).conditions.as_ref().expect("conditions");
        [conditions.ready, conditions.serving, conditions.terminating]
            .map(|condition| condition.expect("set"))
    }
}

#[test]
fn a_ready_pod_becomes_an_endpoint_with_all_its_fields() {
    let mut api = Api::default();
    assert_eq!(api.sync(&plain(), &[pod(0)]), 1);
    let slice = &api.slices[0];
    assert!(slice.metadata.name.as_deref().is_some_and(|name| name.starts_with("web-") && name.len() == 9));
    let labels = slice.metadata.labels.as_ref().expect("labels");
    assert_eq!((labels[SERVICE_NAME].as_str(), labels[MANAGED_BY].as_str()), ("web", CONTROLLER));
    assert_eq!(labels["team"], "a");
    assert!(!labels.contains_key(HEADLESS));
    assert_eq!(slice.metadata.owner_references.as_ref().expect("owner")[0].uid, "s-1");
    let port = &slice.ports.as_ref().expect("ports")[0];
    assert_eq!(
        (port.name.as_deref(), port.port, port.protocol.as_deref()),
        (Some(""), Some(8080), Some("TCP"))
    );
    let endpoint = api.endpoint("web-0");
    assert_eq!(endpoint.addresses, ["10.20.0.1"]);
    assert_eq!((endpoint.node_name.as_deref(), endpoint.zone.as_deref()), (Some("node-a"), Some("zone-a")));
    assert_eq!(api.conditions("web-0"), [true, true, false]);
}

#[test]
fn conditions_follow_readiness_and_deletion() {
    let mut pods = [pod(0), pod(1), pod(2)];
    edit(&mut pods[1], unready);
    edit(&mut pods[2], terminating);
    let mut api = Api::default();
    api.sync(&plain(), &pods);
    assert_eq!(api.conditions("web-0"), [true, true, false]);
    assert_eq!(api.conditions("web-1"), [false, false, false]);
    assert_eq!(api.conditions("web-2"), [false, true, true]);
    let mut publish = plain();
    publish.spec.as_mut().expect("spec").publish_not_ready_addresses = Some(true);
    assert_eq!(api.sync(&publish, &pods), 1);
    assert_eq!(api.conditions("web-1"), [true, false, false]);
    assert_eq!(api.conditions("web-2"), [true, true, true]);
}

#[test]
fn finished_pods_and_pods_without_address_are_no_endpoints() {
    let mut pods = [pod(0), pod(1), pod(2)];
    edit(&mut pods[0], |pod| pod.status.as_mut().expect("status").phase = Some("Failed".to_owned()));
    edit(&mut pods[1], |pod| pod.status.as_mut().expect("status").pod_ips = None);
    edit(&mut pods[2], |pod| drop(pod.metadata.labels.take()));
    let mut api = Api::default();
    api.sync(&plain(), &pods);
    assert_eq!(api.sizes(), [0], "one empty slice says that the Service was looked at");
    assert_eq!(api.sync(&plain(), &[pod(3)]), 1);
    assert_eq!(api.sizes(), [1], "which then becomes the first real one");
}

#[test]
fn one_change_is_one_write_and_leaves_the_other_slices_alone() {
    let mut pods: Vec<_> = (0..250).map(pod).collect();
    let mut api = Api::default();
    assert_eq!(api.sync(&plain(), &pods), 3);
    assert_eq!(api.sizes(), [100, 100, 50]);
    edit(&mut pods[7], unready);
    assert_eq!(api.sync(&plain(), &pods), 1);
    pods.remove(7);
    assert_eq!(api.sync(&plain(), &pods), 1);
    pods.push(pod(300));
    // The hole is filled: 99 of 100 is the fullest with room.
    assert_eq!(api.sync(&plain(), &pods), 1);
    let mut sizes = api.sizes();
    sizes.sort_unstable();
    assert_eq!(sizes, [50, 100, 100]);
    pods.truncate(10);
    api.sync(&plain(), &pods);
    assert_eq!(api.sizes().iter().sum::<usize>(), 10);
}

#[test]
fn scaling_to_none_and_back_keeps_a_slice() {
    let mut api = Api::default();
    api.sync(&plain(), &[pod(0)]);
    let name = api.slices[0].metadata.name.clone();
    assert_eq!(api.sync(&plain(), &[]), 1);
    assert_eq!(api.sync(&plain(), &[pod(1)]), 1);
    assert_eq!((api.slices.len(), &api.slices[0].metadata.name), (1, &name));
}

#[test]
fn named_target_ports_resolve_per_pod_into_slices_of_their_own() {
    let service = service(
        json!({"ports": [{"name": "web", "port": 80, "targetPort": "http"}], "ipFamilies": ["IPv4"]}),
    );
    let mut api = Api::default();
    api.sync(&service, &[pod(0), pod(1), pod(2)]);
    let mut shown: Vec<_> = api
        .slices
        .iter()
        .map(|slice| (slice.ports.as_ref().expect("ports")[0].port.expect("number"), slice.endpoints.len()))
        .collect();
    shown.sort_unstable();
    assert_eq!(shown, [(8000, 2), (8001, 1)]);
}

#[test]
fn fact_44_named_ports_of_containers_that_restart_always_count() {
    let service = service(
        json!({"ports": [{"name": "web", "port": 80, "targetPort": "side"}], "ipFamilies": ["IPv4"]}),
    );
    for (restart, expected) in [(Some("Always"), Some(9000)), (None, None)] {
        let mut pods = [pod(0)];
        edit(&mut pods[0], |pod| {
            let container = json!([{"name": "i", "restartPolicy": restart, "ports": [{"name": "side", "containerPort": 9000}]}]);
            let containers = serde_json::from_value(container).expect("containers");
            pod.spec.as_mut().expect("spec").init_containers = Some(containers);
        });
        let mut api = Api::default();
        api.sync(&service, &pods);
        let ports = api.slices.iter().flat_map(|slice| slice.ports.iter().flatten());
        assert_eq!(ports.filter_map(|port| port.port).next(), expected, "{restart:?}");
    }
}

#[test]
fn a_port_change_moves_everything() {
    let mut api = Api::default();
    api.sync(&plain(), &[pod(0), pod(1)]);
    let other = service(
        json!({"ports": [{"port": 80, "targetPort": 9090}], "clusterIP": "10.24.0.9", "ipFamilies": ["IPv4"]}),
    );
    let name = api.slices[0].metadata.name.clone();
    assert_eq!(api.sync(&other, &[pod(0), pod(1)]), 1);
    assert_eq!(
        (api.sizes(), &api.slices[0].metadata.name),
        (vec![2], &name),
        "the same slice, changed at once"
    );
    assert_eq!(api.slices[0].ports.as_ref().expect("ports")[0].port, Some(9090));
}

#[test]
fn each_family_has_its_slices() {
    let dual = service(json!({"ports": [{"port": 80}], "ipFamilies": ["IPv4", "IPv6"]}));
    let mut api = Api::default();
    api.sync(&dual, &[pod(0)]);
    let mut shown: Vec<_> =
        api.slices.iter().map(|s| (s.address_type.clone(), s.endpoints[0].addresses[0].clone())).collect();
    shown.sort();
    assert_eq!(
        shown,
        [("IPv4".to_owned(), "10.20.0.1".to_owned()), ("IPv6".to_owned(), "fd00::1".to_owned())]
    );
    assert_eq!(
        api.slices[0].ports.as_ref().expect("ports")[0].port,
        Some(80),
        "no target port: the port itself"
    );
    let single = service(json!({"ports": [{"port": 80}], "ipFamilies": ["IPv6"]}));
    api.sync(&single, &[pod(0)]);
    assert_eq!(api.slices.iter().map(|s| s.address_type.as_str()).collect::<Vec<_>>(), ["IPv6"]);
}

#[test]
fn headless_services_are_labelled_and_may_have_no_ports() {
    let headless = service(json!({"clusterIP": "None", "ipFamilies": ["IPv4"]}));
    let mut api = Api::default();
    api.sync(&headless, &[pod(0)]);
    assert!(api.slices[0].metadata.labels.as_ref().expect("labels").contains_key(HEADLESS));
    assert_eq!((api.slices[0].ports.clone(), api.sizes()), (None, vec![1]));
}

#[test]
fn traffic_distribution_becomes_hints_of_ready_endpoints() {
    let mut close = plain();
    close.spec.as_mut().expect("spec").traffic_distribution = Some("PreferClose".to_owned());
    let mut pods = [pod(0), pod(2)];
    edit(&mut pods[1], unready);
    let mut api = Api::default();
    api.sync(&close, &pods);
    let hints = api.endpoint("web-0").hints.as_ref().expect("hints");
    assert_eq!(hints.for_zones.as_ref().expect("zones")[0].name, "zone-a");
    assert_eq!((hints.for_nodes.as_ref(), api.endpoint("web-2").hints.as_ref()), (None, None));
}

#[test]
fn slices_of_others_are_never_touched() {
    let mut foreign = EndpointSlice { address_type: "IPv4".to_owned(), ..EndpointSlice::default() };
    foreign.metadata.name = Some("hand-made".to_owned());
    foreign.metadata.namespace = Some("test".to_owned());
    foreign.metadata.labels = Some(BTreeMap::from([(SERVICE_NAME.to_owned(), "web".to_owned())]));
    let foreign = Arc::new(foreign);
    let actions = plan(&plain(), &[pod(0)], &Zones::default(), &[Arc::clone(&foreign)]);
    assert!(matches!(actions.as_slice(), [Action::Create(_)]), "{actions:?}");
    assert!(abandoned(None, &[foreign]).is_empty());
    let no_selector = service(json!({"selector": {}, "ports": [{"port": 80}]}));
    assert!(plan(&no_selector, &[pod(0)], &Zones::default(), &[]).is_empty());
}

#[test]
fn slices_of_a_service_that_is_gone_or_another_by_now_are_abandoned() {
    let mut api = Api::default();
    api.sync(&plain(), &[pod(0)]);
    assert_eq!(abandoned(None, &api.slices).len(), 1);
    assert!(abandoned(Some(&plain()), &api.slices).is_empty());
    let mut recreated = plain();
    recreated.metadata.uid = Some("s-2".to_owned());
    assert_eq!(abandoned(Some(&recreated), &api.slices).len(), 1);
    let mut without = plain();
    without.spec.as_mut().expect("spec").selector = None;
    assert_eq!(abandoned(Some(&without), &api.slices).len(), 1);
}

#[test]
fn the_api_has_a_slice_of_its_own() {
    let address = "10.128.0.2:6443".parse().expect("address");
    let actions = api_slice(address, &[]);
    let [Action::Create(slice)] = actions.as_slice() else { panic!("{actions:?}") };
    assert_eq!(slice.metadata.name.as_deref(), Some("kubernetes"));
    assert!(!is_managed(slice));
    assert_eq!(slice.endpoints[0].addresses, ["10.128.0.2"]);
    assert_eq!(slice.ports.as_ref().expect("ports")[0].port, Some(6443));
    assert!(api_slice(address, &[Arc::clone(slice)]).is_empty());
}

/// The annotation's hints come, keep still, go with the annotation, and win over `trafficDistribution`.
#[test]
fn topology_mode_auto_hints_by_the_zones_processors() {
    let node = |name: &str, zone: &str, processors: &str| {
        Arc::new(
            serde_json::from_value(json!({
                "metadata": {"name": name, "labels": {"topology.kubernetes.io/zone": zone}},
                "status": {
                    "conditions": [{"type": "Ready", "status": "True"}], "allocatable": {"cpu": processors},
                },
            }))
            .expect("node"),
        )
    };
    let pods: Vec<_> = (0..4).map(pod).collect();
    let mut auto = plain();
    auto.spec.as_mut().expect("spec").traffic_distribution = Some("PreferSameNode".to_owned());
    auto.metadata.annotations =
        Some(BTreeMap::from([("service.kubernetes.io/topology-mode".to_owned(), "Auto".to_owned())]));
    let mut api = Api::default();
    let mut hints = |service: &Service, small: &str| {
        let zones = Zones::of(&[node("node-a", "zone-a", "3"), node("node-b", "zone-b", small)]);
        api.apply(plan(service, &pods, &zones, &api.slices));
        assert!(plan(service, &pods, &zones, &api.slices).is_empty(), "a second pass changes nothing");
        let hints = |n: usize| {
            let hints = api.endpoint(&format!("web-{n}")).hints.clone()?;
            assert_eq!(hints.for_nodes, None);
            Some(hints.for_zones?.into_iter().map(|zone| zone.name).collect::<String>())
        };
        (0..4).map(|n| hints(n).unwrap_or_default().replace("zone-", "")).collect::<String>()
    };
    assert_eq!(hints(&auto, "3"), "abab");
    assert_eq!(hints(&auto, "1"), "aaab");
    assert_eq!(hints(&auto, "nothing"), "");
    assert_eq!(hints(&auto, "3"), "abab");
    assert_eq!(hints(&plain(), "3"), "");
}
