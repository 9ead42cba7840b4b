//! The pods that come, change their labels and go: by node, number and set of labels.

use super::*;

pub(super) fn name(place: usize, pod: usize) -> PodName {
    PodName { namespace: "d".into(), name: format!("{}-{pod}", NODES[place]) }
}

pub(super) fn address(place: usize, pod: usize) -> std::net::IpAddr {
    [10, 20, place as u8, pod as u8 + 2].into()
}

pub(super) fn object(place: usize, pod: usize, set: usize) -> Pod {
    let PodName { namespace, name } = name(place, pod);
    read(&json!({
        "metadata": {"namespace": namespace, "name": name, "uid": name, "labels": {"set": set.to_string()}},
        "spec": {"nodeName": NODES[place], "containers": []},
    }))
}

pub(super) fn endpoint(place: usize, pod: usize) -> Endpoint {
    Endpoint {
        pod: name(place, pod),
        addresses: vec![address(place, pod)],
        interface: format!("tp{pod}"),
        ifindex: 1,
        mac: MacAddress::default(),
        host_mac: MacAddress::default(),
        netns: None,
        l7: Default::default(),
    }
}

/// The labels and the first candidate of a set, as an agent that is alone sees them.
pub(super) fn wanted(set: usize) -> (IdentityId, Labels) {
    let mut agent = Agent::start(0, &Api::default(), [(0, set)].into());
    agent.think(Timestamp::UNIX_EPOCH);
    match agent.held.first() {
        Some(Wish::Create { id, labels }) => (*id, labels.clone()),
        other => panic!("{other:?}"),
    }
}
