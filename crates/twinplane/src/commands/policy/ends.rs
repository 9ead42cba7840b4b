//! How people name a connection: pods or addresses, a port with its protocol. Pure.

use std::{net::IpAddr, str::FromStr};

use model::{Family, PodName, Protocol, policy::L4};
use policy::world::{Connection, Party, Undecidable, World};

/// One end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum End {
    Address(IpAddr),
    Pod(PodName),
}

/// A port with a protocol, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PortArg(pub(super) L4);

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid end {0:?}: want namespace/pod, pod (in namespace \"default\"), or an address")]
pub(super) struct InvalidEnd(String);

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid port {0:?}: want as 80, 53/UDP, or \"icmp\" for what has no port")]
pub(super) struct InvalidPort(String);

impl FromStr for End {
    type Err = InvalidEnd;

    fn from_str(text: &str) -> Result<Self, InvalidEnd> {
        if let Ok(address) = text.parse() {
            return Ok(Self::Address(address));
        }
        let (namespace, name) = text.split_once('/').unwrap_or(("default", text));
        let is_name = |part: &str| {
            !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '.')
        };
        match is_name(namespace) && is_name(name) {
            true => Ok(Self::Pod(PodName { namespace: namespace.into(), name: name.into() })),
            false => Err(InvalidEnd(text.to_owned())),
        }
    }
}

impl FromStr for PortArg {
    type Err = InvalidPort;

    fn from_str(text: &str) -> Result<Self, InvalidPort> {
        if text.eq_ignore_ascii_case("icmp") {
            return Ok(Self(L4::Other));
        }
        let (port, protocol) = text.split_once('/').unwrap_or((text, "TCP"));
        let invalid = || InvalidPort(text.to_owned());
        let protocol: Protocol = protocol.to_ascii_uppercase().parse().map_err(|_| invalid())?;
        let port = port.parse().ok().filter(|port| *port != 0).ok_or_else(invalid)?;
        Ok(Self(L4::Port(protocol, port)))
    }
}

impl End {
    fn party(&self, world: &World, family: Family) -> Result<Party, Undecidable> {
        match self {
            Self::Address(address) => world.party(*address),
            Self::Pod(name) => world.pod_party(name, family),
        }
    }
}

/// The connections that are meant: in the family that is `wanted` or that an address has, or in each that both pods have; IPv4 comes
/// first.
pub(super) fn connections(
    world: &World,
    [source, destination]: [&End; 2],
    l4: L4,
    wanted: Option<Family>,
) -> Result<Vec<Connection>, Undecidable> {
    let given = [source, destination].into_iter().find_map(|end| match end {
        End::Address(address) => Some(Family::of(*address)),
        End::Pod(_) => None,
    });
    let of = |family| {
        let (source, destination) = (source.party(world, family)?, destination.party(world, family)?);
        Ok(Connection { source, destination, l4 })
    };
    if let Some(family) = wanted.or(given) {
        return Ok(vec![of(family)?]);
    }
    match (of(Family::V4), of(Family::V6)) {
        (Err(first), Err(_)) => Err(first),
        (first, second) => Ok(first.into_iter().chain(second).collect()),
    }
}

#[cfg(test)]
mod tests {
    use policy::{read::PodReading, world::Owner};

    use super::*;

    fn world() -> World {
        let mut world = World::default();
        world.set_namespace("shop", [].into());
        for (name, addresses) in [("web", "10.0.0.1 fd00::1"), ("six", "fd00::2"), ("four", "10.0.0.4")] {
            let addresses = addresses.split(' ').map(|text| text.parse().expect("address")).collect();
            let pod = PodReading { addresses, ..PodReading::default() };
            world.pods.insert(PodName { namespace: "shop".into(), name: name.into() }, pod);
        }
        world
    }

    fn all(source: &str, destination: &str, wanted: Option<Family>) -> Result<Vec<[String; 2]>, String> {
        let [source, destination] = [source, destination].map(|end| end.parse::<End>().expect("an end"));
        let connections = connections(&world(), [&source, &destination], L4::Other, wanted);
        let addresses =
            |asked: Connection| [asked.source, asked.destination].map(|end| end.address.to_string());
        Ok(connections.map_err(|why| why.to_string())?.into_iter().map(addresses).collect())
    }

    fn ask(source: &str, destination: &str) -> Result<[String; 2], String> {
        all(source, destination, None).map(|mut all| all.remove(0))
    }

    #[test]
    fn a_connection_has_the_family_that_both_ends_have() {
        assert_eq!(ask("shop/four", "shop/web"), Ok(["10.0.0.4".into(), "10.0.0.1".into()]));
        assert_eq!(ask("shop/web", "shop/six"), Ok(["fd00::1".into(), "fd00::2".into()]));
        assert_eq!(ask("2001:db8::1", "shop/web"), Ok(["2001:db8::1".into(), "fd00::1".into()]));
        let why = ask("shop/four", "shop/six").expect_err("no common family");
        assert_eq!(why, "cannot decide: pod shop/six has no address in IPv4");
        let both = all("shop/web", "shop/web", None).expect("both families");
        assert_eq!(both.iter().map(|ends| ends[1].as_str()).collect::<Vec<_>>(), ["10.0.0.1", "fd00::1"]);
        let six = all("shop/web", "shop/web", Some(Family::V6)).expect("one family");
        assert_eq!(six, [["fd00::1", "fd00::1"].map(str::to_owned)]);
        assert!(all("shop/four", "shop/web", Some(Family::V6)).is_err());
        assert_eq!(ask("shop/gone", "shop/web"), Err("cannot decide: there is no pod shop/gone".into()));
        let end: End = "10.0.0.1".parse().expect("an end");
        let party = end.party(&world(), Family::V4).expect("a party");
        assert!(matches!(party.owner, Owner::Pod(name) if name.name == "web"), "an address is its pod");
    }

    #[test]
    fn ends_and_ports_are_read_or_refused() {
        let pod = |text: &str| match text.parse::<End>() {
            Ok(End::Pod(name)) => name.to_string(),
            other => format!("{other:?}"),
        };
        assert_eq!((pod("web"), pod("shop/web-1.a")), ("default/web".into(), "shop/web-1.a".into()));
        for text in ["", "/", "a/b/c", "shop/", "10.0.0.1:80", "a b"] {
            assert!(text.parse::<End>().is_err(), "{text:?}");
        }
        let port = |text: &str| text.parse::<PortArg>().map(|port| port.0);
        assert_eq!(port("80"), Ok(L4::Port(Protocol::Tcp, 80)));
        assert_eq!(port("53/udp"), Ok(L4::Port(Protocol::Udp, 53)));
        assert_eq!(port("ICMP"), Ok(L4::Other));
        for text in ["", "0", "65536", "80/", "80/ICMP", "http"] {
            assert!(port(text).is_err(), "{text:?}");
        }
    }
}
