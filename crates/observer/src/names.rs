//! The DNS names in certificates and the version in answers, as Hubble has them. Never resolves anything.

/// The key of the server's version in a node's answers.
pub const SERVER_VERSION: &str = "hubble-server-version";
/// The key of the relay's version in its answers.
pub const RELAY_VERSION: &str = "hubble-relay-version";
/// The service that a health check is asked about.
pub const HEALTH_SERVICE: &str = "observer.Observer";
/// The cluster whose name is left out of node names.
pub const DEFAULT_CLUSTER: &str = "default";

/// What the certificate of a node's server says for this node. A name's dots become dashes: each is one DNS label.
pub fn node_server(node: &str, cluster: &str) -> String {
    format!("{}.{}.hubble-grpc.cilium.io", label(node), label(cluster))
}

/// What a relay expects of the peer service.
pub fn peer_service(cluster: &str) -> String {
    format!("hubble-peer.{}.hubble-grpc.cilium.io", label(cluster))
}

/// `node`, or `cluster/node` where the cluster is not the default one.
pub fn peer_name(node: &str, cluster: &str) -> String {
    if cluster == DEFAULT_CLUSTER { node.to_owned() } else { format!("{cluster}/{node}") }
}

fn label(name: &str) -> String {
    name.replace('.', "-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_certificates() {
        assert_eq!(node_server("a.b", "x.y"), "a-b.x-y.hubble-grpc.cilium.io");
        assert_eq!(peer_service("default"), "hubble-peer.default.hubble-grpc.cilium.io");
        assert_eq!(peer_name("vm", "default"), "vm");
        assert_eq!(peer_name("vm", "west"), "west/vm");
    }
}
