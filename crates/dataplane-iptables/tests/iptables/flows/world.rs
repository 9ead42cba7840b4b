//! Kubernetes objects → index → rules → walk, for one node in one family, with names for addresses.

use std::net::{IpAddr, SocketAddr};

use cluster::{Index, Kind, Settings};
use dataplane_iptables::{
    parse::Saved,
    render::{Options, render},
    ruleset::Table,
    walk::Terrain,
};
use k8s_openapi::api::{
    core::v1::{Node, Pod, Service},
    discovery::v1::EndpointSlice,
};
use kube::runtime::watcher::Event;
use model::{Family, NodePortAddresses, Protocol, Snapshot, oracle::Packet};
use serde_json::{Value, json};

use crate::{
    common::{cidr, ip},
    equivalence::{Seen, walked, wanted},
};

/// Every address that a case may name, in both families.
const PLACES: &[(&str, &str, &str)] = &[
    ("pod", "10.20.0.5", "fd00:20::5"),
    ("pod-b", "10.20.1.5", "fd00:20:0:1::5"),
    ("a1", "10.20.0.11", "fd00:20::11"),
    ("a2", "10.20.0.12", "fd00:20::12"),
    ("b1", "10.20.1.11", "fd00:20:0:1::11"),
    ("b2", "10.20.1.12", "fd00:20:0:1::12"),
    ("node", "10.128.0.11", "fd00:128::11"),
    ("node-alt", "192.168.7.11", "fd00:7::11"),
    ("node-b", "10.128.0.12", "fd00:128::12"),
    ("client", "198.51.100.10", "2001:db8:c::10"),
    ("blocked", "192.0.2.66", "2001:db8:d::66"),
    ("cluster", "10.24.0.1", "fd00:24::1"),
    ("cluster2", "10.24.0.2", "fd00:24::2"),
    ("unallocated", "10.24.0.9", "fd00:24::9"),
    ("vip", "203.0.113.10", "2001:db8:a::10"),
    ("vip2", "203.0.113.11", "2001:db8:a::11"),
    ("external", "203.0.113.77", "2001:db8:e::77"),
];

pub(crate) const HERE: &str = "node-a";
pub(crate) const THERE: &str = "node-b";

pub(crate) fn address(family: Family, name: &str) -> IpAddr {
    let place = PLACES.iter().find(|place| place.0 == name).unwrap_or_else(|| panic!("no place {name}"));
    ip(if family == Family::V4 { place.1 } else { place.2 })
}

fn name(family: Family, address: IpAddr) -> &'static str {
    let place =
        PLACES.iter().find(|place| ip(if family == Family::V4 { place.1 } else { place.2 }) == address);
    place.unwrap_or_else(|| panic!("no place at {address}")).0
}

/// A node and what its cluster holds; what is left out is as kube-proxy has it without settings.
#[derive(Clone, Debug)]
pub(crate) struct World {
    pub options: Options,
    /// Whether prefixes tell pods from others.
    pub detects_pods: bool,
    pub node_ports: fn(Family) -> NodePortAddresses,
    pub services: Vec<Web>,
}

/// One Service of one TCP port 80 to 8080, with its endpoints.
#[derive(Clone, Debug)]
pub(crate) struct Web {
    pub name: &'static str,
    /// Merged into the Service (RFC 7396) after the addresses below.
    pub patch: Value,
    pub cluster_ip: &'static str,
    pub vips: &'static [&'static str],
    pub external_ips: &'static [&'static str],
    pub ranges: &'static [&'static str],
    /// Name, node, and the letters of its state: r ready, s serving, t terminating.
    pub endpoints: &'static [(&'static str, &'static str, &'static str)],
}

/// One ready endpoint here and one there.
pub(crate) const ONE_EACH: &[(&str, &str, &str)] = &[("a1", HERE, "rs"), ("b1", THERE, "rs")];

impl Web {
    pub(crate) fn cluster_ip() -> Self {
        Self {
            name: "web",
            patch: json!({}),
            cluster_ip: "cluster",
            vips: &[],
            external_ips: &[],
            ranges: &[],
            endpoints: ONE_EACH,
        }
    }

    /// With node port 30080, VIP and external IP.
    pub(crate) fn load_balancer() -> Self {
        let patch = json!({"spec": {"type": "LoadBalancer", "ports": [{"name": "p", "port": 80, "nodePort": 30080}]}});
        Self { patch, vips: &["vip"], external_ips: &["external"], ..Self::cluster_ip() }
    }

    /// `spec` merged into what there is.
    pub(crate) fn spec(mut self, spec: Value) -> Self {
        merge(&mut self.patch, &json!({"spec": spec}));
        self
    }

    pub(crate) fn endpoints(self, endpoints: &'static [(&'static str, &'static str, &'static str)]) -> Self {
        Self { endpoints, ..self }
    }

    fn service(&self, family: Family) -> Value {
        let list =
            |names: &[&str]| names.iter().map(|name| address(family, name).to_string()).collect::<Vec<_>>();
        let ingress: Vec<_> = list(self.vips).into_iter().map(|ip| json!({"ip": ip})).collect();
        let own = address(family, self.cluster_ip).to_string();
        let ranges: Vec<_> =
            self.ranges.iter().map(|name| ipnet::IpNet::from(address(family, name)).to_string()).collect();
        let mut service = json!({
            "metadata": {"namespace": "ns", "name": self.name},
            "spec": {"type": "ClusterIP", "clusterIP": own, "clusterIPs": [own], "externalIPs": list(self.external_ips),
                     "ports": [{"name": "p", "port": 80, "protocol": "TCP"}], "loadBalancerSourceRanges": ranges},
            "status": {"loadBalancer": {"ingress": ingress}},
        });
        merge(&mut service, &self.patch);
        service
    }

    /// One slice that has every port of the Service, 8080 for each.
    fn slice(&self, family: Family, service: &Value) -> Value {
        let ports = service["spec"]["ports"].as_array().expect("ports").iter();
        let ports: Vec<_> = ports
            .map(|port| json!({"name": port["name"], "protocol": port["protocol"], "port": port["targetPort"].as_u64().unwrap_or(8080)}))
            .collect();
        let endpoint = |(at, node, state): &(&str, &str, &str)| {
            json!({"addresses": [address(family, at).to_string()], "nodeName": node,
                   "conditions": {"ready": state.contains('r'), "serving": state.contains('s'),
                                  "terminating": state.contains('t')}})
        };
        json!({
            "metadata": {"namespace": "ns", "name": self.name, "labels": {"kubernetes.io/service-name": self.name}},
            "addressType": if family == Family::V4 { "IPv4" } else { "IPv6" },
            "ports": ports,
            "endpoints": self.endpoints.iter().map(endpoint).collect::<Vec<_>>(),
        })
    }
}

impl World {
    pub(crate) fn of(services: impl IntoIterator<Item = Web>) -> Self {
        Self {
            options: Options::default(),
            detects_pods: true,
            node_ports: |_| NodePortAddresses::All,
            services: services.into_iter().collect(),
        }
    }

    pub(crate) fn snapshot(&self, family: Family) -> Snapshot {
        let prefix = if family == Family::V4 { "10.20.0.0/16" } else { "fd00:20::/32" };
        let mut index = Index::new(Settings {
            node: HERE.into(),
            cluster_cidrs: if self.detects_pods { vec![cidr(prefix)] } else { vec![] },
            node_ports: (self.node_ports)(family),
        });
        let own = [address(family, "node"), address(family, "node-alt")];
        let addresses: Vec<_> =
            own.iter().map(|a| json!({"type": "InternalIP", "address": a.to_string()})).collect();
        let node = json!({"metadata": {"name": HERE, "labels": {}}, "spec": {"podCIDR": "10.20.0.0/24", "podCIDRs": ["10.20.0.0/24", "fd00:20::/64"]},
                   "status": {"addresses": addresses}});
        list::<Node>(&mut index, vec![node]);
        list::<Pod>(&mut index, vec![]);
        let services: Vec<_> = self.services.iter().map(|web| web.service(family)).collect();
        let slices =
            self.services.iter().zip(&services).map(|(web, service)| web.slice(family, service)).collect();
        list::<Service>(&mut index, services);
        list::<EndpointSlice>(&mut index, slices);
        index.set_local_addresses(own.into());
        let mut snapshot = Snapshot::default();
        snapshot
            .advance(index.take_update().unwrap_or_else(|| panic!("waits for {:?}", index.waiting_for())));
        let problems: Vec<_> = index.problems().map(ToString::to_string).collect();
        assert_eq!(problems, [""; 0]);
        snapshot
    }

    pub(crate) fn saved(&self, family: Family) -> Saved {
        let snapshot = self.snapshot(family);
        let (set, refused) = render(&snapshot, family, self.options);
        assert!(refused.is_empty(), "{refused:?}");
        set.saved()
    }

    /// Checks (source, destination, end) in both families: by the rules, and by the oracle.
    ///
    /// A destination is `PLACE:PORT[/PROTOCOL]`. An end lists endpoints, `!` behind one that sees the node as its client;
    /// or is REJECT, DROP, or empty where no Service is concerned.
    pub(crate) fn check(&self, cases: &[(&str, &str, &str)]) {
        for family in Family::ALL {
            let snapshot = self.snapshot(family);
            let saved = self.saved(family);
            let terrain = Terrain::of(&saved);
            for (source, destination, want) in cases {
                let packet = packet(family, source, destination);
                let context = format!("{family:?} {source} to {destination}");
                assert_eq!(
                    text(family, walked(&terrain, &packet, &snapshot, None)),
                    *want,
                    "rules: {context}"
                );
                assert_eq!(
                    text(family, wanted(&packet, &snapshot, self.options)),
                    *want,
                    "oracle: {context}"
                );
            }
        }
    }

    /// Whether the filter table has a rule that accepts connections to a port of the node.
    pub(crate) fn accepts(&self, family: Family, port: u16) -> bool {
        let saved = self.saved(family);
        let rules = saved.chain(Table::Filter, "KUBE-NODEPORTS").expect("chain");
        rules.iter().any(|rule| rule.text.contains(&format!("-m tcp --dport {port} -j ACCEPT")))
    }
}

fn packet(family: Family, source: &str, destination: &str) -> Packet {
    let (destination, protocol) = destination.split_once('/').unwrap_or((destination, "tcp"));
    let (place, port) = destination.rsplit_once(':').expect("a port");
    Packet {
        source: SocketAddr::new(address(family, source), 40000),
        destination: SocketAddr::new(address(family, place), port.parse().expect("port")),
        protocol: protocol.to_uppercase().parse::<Protocol>().expect("protocol"),
    }
}

fn text(family: Family, seen: Seen) -> String {
    let choice = |(to, masqueraded): &(SocketAddr, bool)| {
        let port = if to.port() == 8080 { String::new() } else { format!(":{}", to.port()) };
        format!("{}{port}{}", name(family, to.ip()), if *masqueraded { "!" } else { "" })
    };
    match seen {
        Seen::Untouched => String::new(),
        Seen::Rejected => "REJECT".into(),
        Seen::Dropped => "DROP".into(),
        Seen::To(choices) => choices.iter().map(choice).collect::<Vec<_>>().join(" "),
    }
}

fn list<K: Kind + serde::de::DeserializeOwned>(index: &mut Index, objects: Vec<Value>) {
    index.observe(Event::<K>::Init);
    for object in objects {
        let read = serde_json::from_value(object.clone()).unwrap_or_else(|error| panic!("{error}: {object}"));
        index.observe(Event::<K>::InitApply(read));
    }
    index.observe(Event::<K>::InitDone);
}

fn merge(base: &mut Value, patch: &Value) {
    let (Some(target), Some(fields)) = (base.as_object_mut(), patch.as_object()) else {
        *base = patch.clone();
        return;
    };
    for (key, value) in fields {
        merge(target.entry(key).or_insert(json!({})), value);
    }
}
