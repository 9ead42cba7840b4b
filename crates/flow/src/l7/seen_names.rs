//! The names that endpoints of this node asked for, by the addresses that they were told: later flows to and from those have them.
//! Bounded per endpoint and in all; forgets what was not used lately first. Never asks anyone.

use std::{net::IpAddr, sync::Arc};

use super::recent::Recent;
use crate::{
    event::{Names, Time},
    proto::flow::Dns,
};

/// A name is kept for at least so long, whatever its time to live: connections outlast it.
const SHORTEST: i64 = 300;
/// And no longer than a day, without being told again.
const LONGEST: i64 = 24 * 3600;
const SECOND: i64 = 1_000_000_000;
/// Of one endpoint; up to twice as many are kept.
const ADDRESSES: usize = 128;
/// Names of one address: those that were told last.
const NAMES: usize = 4;
/// A node has rarely more pods (kubelet's default is 110); up to twice as many are kept.
const ENDPOINTS: usize = 256;

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct SeenNames(Recent<u32, Recent<IpAddr, Known>>);

#[derive(Clone, Debug, Default)]
struct Known {
    /// With the time that each is good until, the one told last at the end.
    names: Vec<(String, Time)>,
    shared: Names,
}

impl Known {
    fn learn(&mut self, name: &str, until: Time) {
        self.names.retain(|(known, _)| known != name);
        if self.names.len() >= NAMES {
            self.names.remove(0);
        }
        self.names.push((name.to_owned(), until));
        self.share();
    }

    fn of(&mut self, now: Time) -> Names {
        if self.names.iter().any(|(_, until)| *until < now) {
            self.names.retain(|(_, until)| *until >= now);
            self.share();
        }
        self.shared.clone()
    }

    fn share(&mut self) {
        let mut names: Vec<String> = self.names.iter().map(|(name, _)| name.clone()).collect();
        names.sort();
        self.shared = (!names.is_empty()).then(|| Arc::from(names));
    }
}

impl SeenNames {
    pub(crate) fn new() -> Self {
        Self(Recent::new(ENDPOINTS))
    }

    /// `endpoint`, local to the node, was told `dns` at `now`.
    pub(crate) fn learn(&mut self, endpoint: u32, dns: &Dns, now: Time) {
        let Some(name) = dns.query.strip_suffix('.').filter(|name| !name.is_empty()) else { return };
        if endpoint == 0 || dns.rcode != 0 {
            return;
        }
        let seconds = i64::from(dns.ttl).clamp(SHORTEST, LONGEST);
        let until = Time(now.0.saturating_add(seconds * SECOND));
        for address in dns.ips.iter().filter_map(|text| text.parse().ok()) {
            let of_endpoint = self.0.entry(endpoint, || Recent::new(ADDRESSES));
            of_endpoint.entry(address, Known::default).learn(name, until);
        }
    }

    /// What `endpoint` calls `address`.
    pub(crate) fn of(&mut self, endpoint: u32, address: IpAddr, now: Time) -> Names {
        if endpoint == 0 || self.0.is_empty() {
            return None;
        }
        self.0.get_mut(&endpoint)?.get_mut(&address)?.of(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Time = Time(1_000 * SECOND);

    fn later(seconds: i64) -> Time {
        Time(NOW.0 + seconds * SECOND)
    }

    fn told(name: &str, ip: &str, ttl: u32) -> Dns {
        Dns { query: name.into(), ips: vec![ip.into()], ttl, ..Dns::default() }
    }

    fn known(names: &mut SeenNames, endpoint: u32, ip: &str, now: Time) -> Vec<String> {
        let names = names.of(endpoint, ip.parse().expect("address"), now);
        names.map(|names| names.to_vec()).unwrap_or_default()
    }

    #[test]
    fn an_address_has_the_names_its_endpoint_was_told_until_they_are_old() {
        let mut names = SeenNames::new();
        names.learn(7, &told("web.example.", "192.0.2.1", 1), NOW);
        names.learn(7, &told("b.example.", "192.0.2.1", 600), NOW);
        assert_eq!(known(&mut names, 7, "192.0.2.1", later(300)), ["b.example", "web.example"]);
        assert_eq!(known(&mut names, 7, "192.0.2.1", later(301)), ["b.example"], "the floor is over");
        assert_eq!(known(&mut names, 7, "192.0.2.1", later(601)), [] as [&str; 0]);
        names.learn(7, &told("web.example.", "192.0.2.1", u32::MAX), NOW);
        assert_eq!(known(&mut names, 7, "192.0.2.1", later(86_401)), [] as [&str; 0], "a day at most");
        names.learn(7, &told("web.example.", "192.0.2.1", 1), NOW);
        assert_eq!(known(&mut names, 8, "192.0.2.1", NOW), [] as [&str; 0], "another endpoint's");
        assert_eq!(known(&mut names, 7, "192.0.2.2", NOW), [] as [&str; 0], "another address");
    }

    #[test]
    fn what_is_no_answer_teaches_nothing() {
        let mut names = SeenNames::new();
        names.learn(0, &told("web.example.", "192.0.2.1", 1), NOW);
        names.learn(7, &Dns { rcode: 3, ..told("web.example.", "192.0.2.1", 1) }, NOW);
        names.learn(7, &told(".", "192.0.2.1", 1), NOW);
        names.learn(7, &told("web.example.", "no address", 1), NOW);
        assert!(names.0.is_empty());
    }

    #[test]
    fn whatever_is_told_there_is_a_bound() {
        let mut names = SeenNames::new();
        for endpoint in 1..1000 {
            names.learn(endpoint, &told("a.", "192.0.2.1", 1), NOW);
        }
        assert!(names.0.len() <= 2 * ENDPOINTS);
        for address in 0..2000_u16 {
            let [high, low] = address.to_be_bytes();
            for name in 0..10 {
                let ip = format!("10.0.{high}.{low}");
                names.learn(7, &told(&format!("{name}."), &ip, 1), NOW);
            }
        }
        let of_endpoint = names.0.get_mut(&7).expect("an endpoint");
        assert!(of_endpoint.len() <= 2 * ADDRESSES);
        assert_eq!(known(&mut names, 7, "10.0.7.207", NOW), ["6", "7", "8", "9"]);
    }
}
