//! Service, pods and existing slices → slices to create, replace or delete. Pure.
//!
//! Least churn: an endpoint stays in the slice it is in; new ones fill the fullest slice that has room.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
};

use k8s_openapi::{
    api::{
        core::v1::{Pod, Service},
        discovery::v1::{Endpoint, EndpointPort, EndpointSlice},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

use super::{
    super::meta::{controlled_by, is_terminating, pod_condition, suffix},
    endpoint, is_managed, selected,
    topology::{self, Zones},
};

pub(super) const SERVICE_NAME: &str = "kubernetes.io/service-name";
pub(super) const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
pub(super) const CONTROLLER: &str = "endpointslice-controller.k8s.io";
const HEADLESS: &str = "service.kubernetes.io/headless";
const LAST_CHANGE: &str = "endpoints.kubernetes.io/last-change-trigger-time";
pub(super) const API_PORT_NAME: &str = "https";
/// The real controller's default (`--max-endpoints-per-slice`).
const MOST_PER_SLICE: usize = 100;

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Action {
    Create(Arc<EndpointSlice>),
    Replace(Arc<EndpointSlice>),
    Delete(Arc<EndpointSlice>),
}

/// What makes two endpoints share a slice: family, and ports in the Service's order.
type Group = (&'static str, Vec<PortKey>);
type PortKey = (String, i32, String, Option<String>);

/// What the Service's slices need. `existing` are all slices that name it.
pub(super) fn plan(
    service: &Service,
    pods: &[Arc<Pod>],
    zones: &Zones,
    existing: &[Arc<EndpointSlice>],
) -> Vec<Action> {
    let selector = service.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    if selector.is_none_or(BTreeMap::is_empty) || is_terminating(&service.metadata) {
        return vec![];
    }
    let own: Vec<_> =
        existing.iter().filter(|slice| is_managed(slice) && serves(slice, service)).cloned().collect();
    let mut actions = vec![];
    for family in families(service) {
        actions.extend(plan_family(service, pods, zones, family, &own));
    }
    // Families that the Service lost.
    let lost = own.iter().filter(|slice| !families(service).contains(&slice.address_type.as_str()));
    actions.extend(lost.cloned().map(Action::Delete));
    actions
}

fn plan_family(
    service: &Service,
    pods: &[Arc<Pod>],
    zones: &Zones,
    family: &'static str,
    own: &[Arc<EndpointSlice>],
) -> Vec<Action> {
    let mut groups = BTreeMap::<Group, (Vec<EndpointPort>, BTreeMap<String, Endpoint>)>::new();
    for pod in selected(service, pods) {
        let Some(address) = endpoint::address(pod, family) else { continue };
        let ports = endpoint::ports(service, pod);
        let group =
            groups.entry((family, ports.iter().map(port_key).collect())).or_insert((ports, BTreeMap::new()));
        let endpoint = endpoint::endpoint(service, pod, address, zones);
        group.1.insert(pod.metadata.uid.clone().unwrap_or_default(), endpoint);
    }
    let own: Vec<_> = own.iter().filter(|slice| slice.address_type == family).collect();
    // A Service without endpoints keeps one empty slice, so that watchers know it from one not looked at yet.
    if groups.is_empty() {
        let ports = own.first().and_then(|slice| slice.ports.clone()).unwrap_or_default();
        groups.insert((family, ports.iter().map(port_key).collect()), (ports, BTreeMap::new()));
    }
    let mut filled = vec![];
    for ((_, key), (ports, wanted)) in groups {
        let same: Vec<_> =
            own.iter().filter(|slice| slice_key(slice) == key).map(|slice| Arc::clone(slice)).collect();
        filled.extend(
            fill(&same, wanted).into_iter().map(|(slice, endpoints)| (slice, ports.clone(), endpoints)),
        );
    }
    if topology::is_auto(service) {
        zones.hint(filled.iter_mut().flat_map(|(.., endpoints)| endpoints));
    }
    let kept: BTreeSet<_> =
        filled.iter().filter_map(|(slice, ..)| slice.as_ref()?.metadata.name.clone()).collect();
    let is_kept =
        |slice: &EndpointSlice| slice.metadata.name.as_ref().is_some_and(|name| kept.contains(name));
    // A slice that would go is made into one that would be created: no moment has both, or neither.
    let mut surplus = own.iter().filter(|slice| !is_kept(slice)).map(|slice| Arc::clone(slice));
    let mut taken: BTreeSet<_> = own.iter().filter_map(|slice| slice.metadata.name.clone()).collect();
    let mut actions = vec![];
    for (slice, ports, endpoints) in filled {
        let slice = slice.or_else(|| surplus.next());
        let new = EndpointSlice {
            address_type: family.to_owned(),
            endpoints,
            metadata: metadata(service, pods, slice.as_deref(), &mut taken, family),
            ports: Some(ports).filter(|ports| !ports.is_empty()),
        };
        match slice {
            None => actions.push(Action::Create(Arc::new(new))),
            Some(old) => actions.extend(replacement(&old, new)),
        }
    }
    actions.extend(surplus.map(Action::Delete));
    actions
}

/// Distributes `wanted` (by pod uid) over the existing slices and as many new ones as it takes.
fn fill(
    same: &[Arc<EndpointSlice>],
    mut wanted: BTreeMap<String, Endpoint>,
) -> Vec<(Option<Arc<EndpointSlice>>, Vec<Endpoint>)> {
    let mut slices: Vec<_> = same
        .iter()
        .map(|slice| {
            let staying = slice.endpoints.iter().filter_map(|endpoint| {
                wanted.remove(endpoint.target_ref.as_ref()?.uid.as_deref().unwrap_or_default())
            });
            (Some(Arc::clone(slice)), staying.collect::<Vec<_>>())
        })
        .collect();
    let mut rest = wanted.into_values();
    let mut order: Vec<usize> = (0..slices.len()).collect();
    order.sort_by_key(|index| std::cmp::Reverse(slices[*index].1.len()));
    for index in order {
        let (_, endpoints) = &mut slices[index];
        let room = MOST_PER_SLICE.saturating_sub(endpoints.len());
        endpoints.extend(rest.by_ref().take(room));
    }
    loop {
        let more: Vec<_> = rest.by_ref().take(MOST_PER_SLICE).collect();
        if more.is_empty() {
            break;
        }
        slices.push((None, more));
    }
    // Empty slices go, but one stays if nothing else does.
    if slices.iter().any(|(_, endpoints)| !endpoints.is_empty()) {
        slices.retain(|(_, endpoints)| !endpoints.is_empty());
    } else {
        slices.truncate(1);
    }
    if slices.is_empty() {
        slices.push((None, vec![]));
    }
    slices
}

/// The replacement, if anything but the trigger time differs.
fn replacement(old: &EndpointSlice, new: EndpointSlice) -> Option<Action> {
    let plain = |slice: &EndpointSlice| {
        let mut labels = slice.metadata.labels.clone();
        labels.get_or_insert_default();
        (labels, slice.endpoints.clone(), slice.ports.clone().unwrap_or_default())
    };
    (plain(old) != plain(&new)).then(|| Action::Replace(Arc::new(new)))
}

fn metadata(
    service: &Service,
    pods: &[Arc<Pod>],
    old: Option<&EndpointSlice>,
    taken: &mut BTreeSet<String>,
    family: &str,
) -> ObjectMeta {
    let mut meta = old.map(|old| old.metadata.clone()).unwrap_or_else(|| ObjectMeta {
        name: Some(free_name(service, family, taken)),
        namespace: service.metadata.namespace.clone(),
        owner_references: controlled_by(service).map(|owner| vec![owner]),
        ..ObjectMeta::default()
    });
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.insert(SERVICE_NAME.to_owned(), service.metadata.name.clone().unwrap_or_default());
    labels.insert(MANAGED_BY.to_owned(), CONTROLLER.to_owned());
    if service.spec.as_ref().and_then(|spec| spec.cluster_ip.as_deref()) == Some("None") {
        labels.insert(HEADLESS.to_owned(), String::new());
    } else {
        labels.remove(HEADLESS);
    }
    meta.labels = Some(labels);
    if let Some(time) = last_change(service, pods) {
        meta.annotations.get_or_insert_default().insert(LAST_CHANGE.to_owned(), time);
    }
    meta
}

/// `<service>-<five characters>`: the same each time it is planned from the same state.
fn free_name(service: &Service, family: &str, taken: &mut BTreeSet<String>) -> String {
    let uid = service.metadata.uid.as_deref().unwrap_or_default();
    let name = service.metadata.name.as_deref().unwrap_or_default();
    let mut names = (0..).map(|attempt| format!("{name}-{}", suffix(&format!("{uid}/{family}/{attempt}"))));
    let free = names.find(|name| !taken.contains(name)).unwrap_or_default();
    taken.insert(free.clone());
    free
}

/// When the state that the slices show came about: what programming latency is measured from.
fn last_change(service: &Service, pods: &[Arc<Pod>]) -> Option<String> {
    let transitions =
        selected(service, pods).filter_map(|pod| pod_condition(pod, "Ready")?.last_transition_time.clone());
    transitions.chain(service.metadata.creation_timestamp.clone()).max().map(|time| time.0.to_string())
}

/// The slice of the API's own Service: made by the API server itself in a real cluster, so without managed-by.
pub(super) fn api_slice(api: SocketAddr, existing: &[Arc<EndpointSlice>]) -> Vec<Action> {
    let (namespace, name) = super::API_SERVICE;
    let old = existing.iter().find(|slice| slice.metadata.name.as_deref() == Some(name));
    let mut meta = old.map(|old| old.metadata.clone()).unwrap_or_default();
    meta.name = Some(name.to_owned());
    meta.namespace = Some(namespace.to_owned());
    meta.labels = Some(BTreeMap::from([(SERVICE_NAME.to_owned(), name.to_owned())]));
    let wanted = EndpointSlice {
        address_type: endpoint::address_type(api.ip()).to_owned(),
        endpoints: vec![Endpoint {
            addresses: vec![api.ip().to_string()],
            conditions: Some(k8s_openapi::api::discovery::v1::EndpointConditions {
                ready: Some(true),
                ..Default::default()
            }),
            ..Endpoint::default()
        }],
        metadata: meta,
        ports: Some(vec![EndpointPort {
            name: Some(API_PORT_NAME.to_owned()),
            port: Some(api.port().into()),
            protocol: Some("TCP".to_owned()),
            app_protocol: None,
        }]),
    };
    match old {
        None => vec![Action::Create(Arc::new(wanted))],
        Some(old) => replacement(old, wanted).into_iter().collect(),
    }
}

/// Managed slices whose Service is gone, or is another by now, or selects nothing any more. `service` is the one that
/// all of `slices` name.
pub(super) fn abandoned(service: Option<&Service>, slices: &[Arc<EndpointSlice>]) -> Vec<Arc<EndpointSlice>> {
    let selector = service.and_then(|service| service.spec.as_ref()?.selector.as_ref());
    let selects = selector.is_some_and(|selector| !selector.is_empty());
    let owned = |slice: &EndpointSlice| selects && service.is_some_and(|service| serves(slice, service));
    slices.iter().filter(|slice| is_managed(slice) && !owned(slice)).cloned().collect()
}

/// The slice names the Service, and was made for this one and not for an earlier one of its name.
fn serves(slice: &EndpointSlice, service: &Service) -> bool {
    let meta = &slice.metadata;
    let named =
        meta.labels.as_ref().and_then(|labels| labels.get(SERVICE_NAME)) == service.metadata.name.as_ref();
    let owners = meta.owner_references.iter().flatten();
    let mut owners = owners.filter(|owner| owner.kind == "Service").peekable();
    let ours =
        owners.peek().is_none() || owners.any(|owner| Some(&owner.uid) == service.metadata.uid.as_ref());
    named && ours && meta.namespace == service.metadata.namespace
}

/// The address types of the Service, primary first. A headless one without families has all its pods have.
pub(super) fn families(service: &Service) -> Vec<&'static str> {
    let listed = service.spec.as_ref().and_then(|spec| spec.ip_families.as_deref()).unwrap_or_default();
    let known = listed.iter().filter_map(|family| ["IPv4", "IPv6"].into_iter().find(|known| known == family));
    let families: Vec<_> = known.collect();
    if families.is_empty() { vec!["IPv4"] } else { families }
}

fn port_key(port: &EndpointPort) -> PortKey {
    (
        port.name.clone().unwrap_or_default(),
        port.port.unwrap_or(0),
        port.protocol.clone().unwrap_or_default(),
        port.app_protocol.clone(),
    )
}

fn slice_key(slice: &EndpointSlice) -> Vec<PortKey> {
    slice.ports.iter().flatten().map(port_key).collect()
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
