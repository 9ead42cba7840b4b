//! Names and numbers of the domain. No raw integers or strings cross a crate's border without one of these.

use std::{fmt, net::IpAddr, str::FromStr};

use serde::{Deserialize, Serialize};

/// An IP address family. Everything per family is keyed by it, never written twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    V4,
    V6,
}

impl Family {
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    pub fn of(addr: IpAddr) -> Self {
        if addr.is_ipv4() { Self::V4 } else { Self::V6 }
    }
}

/// A transport protocol a Service can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

impl Protocol {
    /// The IANA protocol number (RFC 9293, 768, 9260).
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }

    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            6 => Some(Self::Tcp),
            17 => Some(Self::Udp),
            132 => Some(Self::Sctp),
            _ => None,
        }
    }

    /// As iptables and conntrack spell it.
    pub const fn lowercase(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        })
    }
}

impl FromStr for Protocol {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        match s {
            "TCP" => Ok(Self::Tcp),
            "UDP" => Ok(Self::Udp),
            "SCTP" => Ok(Self::Sctp),
            _ => Err(format!("unsupported protocol {s:?}: want TCP, UDP or SCTP")),
        }
    }
}

/// Begins the port name of every host port.
const HOST_PORT: &str = "hostPort-";

/// A transport port, 1 to 65535.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u16", into = "u16")]
pub struct Port(u16);

/// Port 0 has no meaning in a Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("port must be between 1 and 65535, not {0}")]
pub struct InvalidPort(pub i64);

impl Port {
    pub const fn new(port: u16) -> Option<Self> {
        if port == 0 { None } else { Some(Self(port)) }
    }

    pub const fn get(self) -> u16 {
        self.0
    }
}

impl TryFrom<u16> for Port {
    type Error = InvalidPort;

    fn try_from(port: u16) -> Result<Self, InvalidPort> {
        Self::new(port).ok_or(InvalidPort(0))
    }
}

/// Kubernetes carries ports as `i32`.
impl TryFrom<i32> for Port {
    type Error = InvalidPort;

    fn try_from(port: i32) -> Result<Self, InvalidPort> {
        u16::try_from(port).ok().and_then(Self::new).ok_or(InvalidPort(port.into()))
    }
}

impl From<Port> for u16 {
    fn from(port: Port) -> Self {
        port.0
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Counts snapshots; a dataplane reports which one it has programmed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Generation(pub u64);

impl Generation {
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// A Kubernetes Service by name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ServiceName {
    pub namespace: String,
    pub name: String,
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A pod by name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PodName {
    pub namespace: String,
    pub name: String,
}

impl fmt::Display for PodName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// One port of one Service in one address family: the unit that is programmed, reported and isolated.
///
/// A host port of a pod has one as well, see [`Self::of_host_port`].
///
/// Displays as kube-proxy's service port name: `namespace/name:port`, or `namespace/name` for an unnamed port.
/// The field order is the sort order kube-proxy renders in.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ServicePortId {
    pub service: ServiceName,
    /// The port's name; empty for the only, unnamed port.
    pub port: String,
    pub protocol: Protocol,
    pub family: Family,
}

impl ServicePortId {
    /// The host port `port` of `pod`, at `address` or at all addresses of the node.
    ///
    /// It can never be a Service's: names of Service ports are lower case (RFC 1123 labels).
    pub fn of_host_port(
        pod: &PodName,
        (address, port): (Option<IpAddr>, Port),
        protocol: Protocol,
        family: Family,
    ) -> Self {
        let at = address.map_or_else(String::new, |address| format!("@{address}"));
        Self {
            service: ServiceName { namespace: pod.namespace.clone(), name: pod.name.clone() },
            port: format!("{HOST_PORT}{port}{at}"),
            protocol,
            family,
        }
    }

    /// Whether this is a pod's host port: then `service` names the pod.
    pub fn is_host_port(&self) -> bool {
        self.port.starts_with(HOST_PORT)
    }
}

impl fmt::Display for ServicePortId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.service.fmt(f)?;
        if self.port.is_empty() { Ok(()) } else { write!(f, ":{}", self.port) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_refuses_zero_and_out_of_range() {
        assert_eq!(Port::try_from(0i32), Err(InvalidPort(0)));
        assert_eq!(Port::try_from(65536i32), Err(InvalidPort(65536)));
        assert_eq!(Port::try_from(443i32).map(Port::get), Ok(443));
    }

    #[test]
    fn service_port_displays_as_kube_proxy_names_it() {
        let mut id = ServicePortId {
            service: ServiceName { namespace: "d".into(), name: "c3".into() },
            port: "http".into(),
            protocol: Protocol::Tcp,
            family: Family::V4,
        };
        assert_eq!(id.to_string(), "d/c3:http");
        id.port.clear();
        assert_eq!(id.to_string(), "d/c3");
    }

    #[test]
    fn host_ports_differ_by_address_port_and_protocol_and_from_every_service_port() {
        let pod = PodName { namespace: "d".into(), name: "c3".into() };
        let id = |address: Option<&str>, port, protocol| {
            let address = address.map(|address| address.parse().expect("address"));
            let at = (address, Port::new(port).expect("port"));
            ServicePortId::of_host_port(&pod, at, protocol, Family::V4)
        };
        let all = [
            id(None, 80, Protocol::Tcp),
            id(None, 81, Protocol::Tcp),
            id(None, 80, Protocol::Udp),
            id(Some("10.128.0.11"), 80, Protocol::Tcp),
        ];
        assert_eq!(all.iter().collect::<std::collections::BTreeSet<_>>().len(), all.len());
        assert_eq!(all[3].to_string(), "d/c3:hostPort-80@10.128.0.11");
        assert!(all.iter().all(ServicePortId::is_host_port));
        let service = ServicePortId { port: "hostport-80".into(), ..all[0].clone() };
        assert!(!service.is_host_port());
    }
}
