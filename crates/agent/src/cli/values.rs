//! Values of options that are spelt as kube-proxy's flags are. Pure.

use std::{convert::Infallible, net::SocketAddr, path::PathBuf, time::Duration};

use clap::ValueEnum;
use dataplane_ebpf::Telling;
use flow::ring::Capacity;
use ipnet::IpNet;
use model::NodePortAddresses;

/// How long a new pod waits for its identity: those take milliseconds where the API server is there, and a runtime waits for minutes.
pub(super) const IDENTITY_WITHIN: Duration = Duration::from_secs(2);

/// A time as Go's flags spell it ("1h30m", "90s").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Period(pub(super) Duration);

impl std::str::FromStr for Period {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parsed = text.parse::<jiff::SignedDuration>().ok().and_then(|time| Duration::try_from(time).ok());
        parsed.map(Self).ok_or_else(|| format!("invalid time {text:?}: want one as 1h30m or 90s"))
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Switch {
    #[default]
    Off,
    On,
}

/// Where to listen, or "none".
#[derive(Clone, Copy, Debug)]
pub struct Bind(pub Option<SocketAddr>);

impl std::str::FromStr for Bind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "none" => Ok(Self(None)),
            _ => text
                .parse()
                .map(|address| Self(Some(address)))
                .map_err(|_| format!("invalid address {text:?}: want ADDRESS:PORT, or none")),
        }
    }
}

/// As Cilium's `--monitor-aggregation` has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Aggregation {
    /// Every packet; none takes the fast path
    None,
    /// Every packet but bare acknowledgements of TCP; none takes the fast path
    Low,
    /// When a flow begins, every so often while it goes on, and when it ends
    Medium,
    /// No flow at all, and nothing is served
    Off,
}

impl Aggregation {
    /// `every`: how often a flow that goes on is told of, where that is asked.
    pub(super) fn telling(self, every: Period) -> Telling {
        match self {
            Self::None => Telling::Packets,
            Self::Low => Telling::Substance,
            Self::Medium => Telling::Flows { every: every.0 },
            Self::Off => Telling::Nothing,
        }
    }
}

/// The path of a socket, or "none".
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketPath(pub Option<PathBuf>);

impl std::str::FromStr for SocketPath {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self((text != "none").then(|| text.into())))
    }
}

pub(super) fn capacity(text: &str) -> Result<Capacity, String> {
    let number = text.parse().map_err(|_| format!("invalid number {text:?}"))?;
    Capacity::new(number).map_err(|error| error.to_string())
}

/// One value of `--nodeport-addresses`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NodePortFilter {
    Primary,
    Within(IpNet),
}

impl std::str::FromStr for NodePortFilter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "primary" => Ok(Self::Primary),
            _ => text
                .parse()
                .map(Self::Within)
                .map_err(|_| format!("invalid prefix {text:?}: want CIDR, or primary")),
        }
    }
}

/// "primary" stands alone, as in kube-proxy.
pub(super) fn node_ports(filters: &[NodePortFilter]) -> anyhow::Result<NodePortAddresses> {
    let prefixes: Vec<IpNet> = filters
        .iter()
        .filter_map(|filter| match filter {
            NodePortFilter::Primary => None,
            NodePortFilter::Within(prefix) => Some(*prefix),
        })
        .collect();
    match (filters.len(), prefixes.len()) {
        (0, _) => Ok(NodePortAddresses::All),
        (1, 0) => Ok(NodePortAddresses::Primary),
        (all, given) if all == given => Ok(NodePortAddresses::Within(prefixes)),
        _ => anyhow::bail!("--nodeport-addresses: \"primary\" cannot be combined with other values"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_gos_flags_are() {
        let seconds = |text: &str| text.parse::<Period>().map(|period| period.0.as_secs());
        assert_eq!([seconds("24h"), seconds("1h30m"), seconds("0s")], [Ok(86_400), Ok(5_400), Ok(0)]);
        assert!(seconds("-1s").is_err() && seconds("soon").is_err());
    }

    #[test]
    fn fact_53_node_port_addresses_are_prefixes_or_primary_alone() {
        let read = |text: &str| {
            let filters: Result<Vec<NodePortFilter>, _> =
                text.split_terminator(',').map(str::parse).collect();
            node_ports(&filters.map_err(anyhow::Error::msg)?)
        };
        assert_eq!(read("").expect("nothing"), NodePortAddresses::All);
        assert_eq!(read("primary").expect("primary"), NodePortAddresses::Primary);
        let prefixes = ["10.0.0.0/8", "fd00::/8"].map(|prefix| prefix.parse().expect("prefix")).to_vec();
        assert_eq!(read("10.0.0.0/8,fd00::/8").expect("prefixes"), NodePortAddresses::Within(prefixes));
        for wrong in ["primary,10.0.0.0/8", "10.0.0.1", "none"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
