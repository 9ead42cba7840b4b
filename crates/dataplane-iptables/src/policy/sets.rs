//! Sets of prefixes: their names, their members, and the text that leads from what there is to what is wanted. Pure.
//!
//! A member of the longest prefix decides about an address, and may be a hole (`nomatch`), as in `ipset(8)`, `hash:net`.
//!
//! Invariant: the set of an identity is changed in place, because its name means the same on every node and in every run. A set of
//! prefixes that rules name has the name of its contents and never changes, so that rules go from one to the next by one write.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    fmt::Write as _,
    net::IpAddr,
};

use ipnet::IpNet;
use model::{Family, IdentityId, policy::Peer};

use crate::names;

/// At most 31 bytes in the kernel (`IPSET_MAXNAMELEN`).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct SetName(String);

/// Whether an address whose longest member this is belongs to the set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Member {
    Match,
    Hole,
}

pub(crate) type Members = BTreeMap<IpNet, Member>;

/// Begins the names of a family's sets.
const fn start(family: Family) -> &'static str {
    match family {
        Family::V4 => "tp4-",
        Family::V6 => "tp6-",
    }
}

impl SetName {
    /// Whoever has an identity of the cluster, or a reserved one.
    pub(crate) fn identity(family: Family, id: IdentityId) -> Self {
        Self(format!("{}i-{id}", start(family)))
    }

    /// All that have an identity of the cluster.
    pub(crate) fn pods(family: Family) -> Self {
        Self(format!("{}pods", start(family)))
    }

    /// A set that never has other members.
    pub(crate) fn of(family: Family, members: &Members) -> Self {
        Self(format!("{}p-{}", start(family), names::hash(&format!("{members:?}"))))
    }

    /// A name that the kernel shows.
    pub(crate) fn read(name: &str) -> Self {
        Self(name.to_owned())
    }

    /// Whom it stands for; `None`: prefixes that rules name, or it is no set of ours.
    pub(crate) fn peer(&self) -> Option<Peer> {
        let of = Family::ALL.into_iter().find_map(|family| self.0.strip_prefix(start(family)))?;
        match of.strip_prefix("i-") {
            Some(id) => id.parse().ok().map(|id| Peer::Identity(IdentityId::from_raw(id))),
            None => (of == "pods").then_some(Peer::Pods),
        }
    }

    pub(crate) fn probe() -> Self {
        Self("tp4-probe".to_owned())
    }

    /// Its members follow from whose addresses are.
    pub(crate) fn is_of_addresses(&self) -> bool {
        !self.0[start(Family::V4).len()..].starts_with("p-")
    }
}

impl fmt::Display for SetName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The prefixes of a family by whose they are.
pub(crate) fn owners(
    known: &BTreeMap<IpNet, IdentityId>,
    family: Family,
) -> BTreeMap<IdentityId, Vec<IpNet>> {
    let mut owners: BTreeMap<IdentityId, Vec<IpNet>> = BTreeMap::new();
    for (net, id) in known.iter().filter(|(net, _)| Family::of(net.addr()) == family) {
        owners.entry(*id).or_default().push(*net);
    }
    owners
}

/// The members for `own` prefixes of those `known`, which `belongs` tells from others: as holes what else is known within them.
/// A set has no prefix of length 0 (`hash_net4_uadt`): it has the two halves.
pub(crate) fn members(
    known: &BTreeMap<IpNet, IdentityId>,
    own: &[IpNet],
    belongs: impl Fn(IdentityId) -> bool,
) -> Members {
    let mut members = Members::new();
    for net in own.iter().filter(|net| net.prefix_len() == 0) {
        members.extend(halves(*net).map(|half| (half, Member::Match)));
    }
    for net in own.iter().filter(|net| net.prefix_len() > 0) {
        members.insert(*net, Member::Match);
    }
    for net in own.iter().filter(|net| net.prefix_len() < net.max_prefix_len()) {
        for (inner, _) in within(known, *net).filter(|(_, id)| !belongs(**id)) {
            members.insert(*inner, Member::Hole);
        }
    }
    members
}

fn halves(net: IpNet) -> impl Iterator<Item = IpNet> {
    net.subnets(net.prefix_len() + 1).into_iter().flatten()
}

/// What is known strictly within `net`: in the order of the map all of it follows `net` itself.
fn within(known: &BTreeMap<IpNet, IdentityId>, net: IpNet) -> impl Iterator<Item = (&IpNet, &IdentityId)> {
    known.range(net..).skip(1).take_while(move |(inner, _)| net.contains(*inner))
}

/// Whose `address` is: the longest prefix counts.
pub(crate) fn longest(known: &BTreeMap<IpNet, IdentityId>, address: IpAddr) -> Option<IdentityId> {
    let whole = IpNet::from(address);
    let lengths = (0..=whole.max_prefix_len()).rev();
    lengths
        .filter_map(|length| IpNet::new(address, length).ok())
        .find_map(|net| known.get(&net.trunc()).copied())
}

/// Whether `address` belongs: its longest member decides.
pub(crate) fn holds(members: &Members, address: IpAddr) -> bool {
    let whole = IpNet::from(address);
    let nets = (0..=whole.max_prefix_len()).rev().filter_map(|length| IpNet::new(address, length).ok());
    nets.into_iter().find_map(|net| members.get(&net.trunc())) == Some(&Member::Match)
}

/// The line that makes a set, for as many members as there may be addresses.
pub(crate) fn create(name: &SetName, family: Family) -> String {
    let family = match family {
        Family::V4 => "inet",
        Family::V6 => "inet6",
    };
    format!("create {name} hash:net family {family} maxelem 1048576\n")
}

/// What is to be there before rules refer to it: new sets and new members.
pub(crate) fn additions(
    have: &BTreeMap<SetName, Members>,
    want: &BTreeMap<SetName, Members>,
    family: Family,
) -> String {
    let mut text = String::new();
    for (name, members) in want {
        let old = have.get(name);
        if old.is_none() {
            text.push_str(&create(name, family));
        }
        let new = members.iter().filter(|(net, member)| old.and_then(|old| old.get(*net)) != Some(*member));
        for (net, member) in new {
            let _infallible =
                writeln!(text, "add {name} {net}{}", if *member == Member::Hole { " nomatch" } else { "" });
        }
    }
    text
}

/// What may go once no rule needs it: members of sets that stay.
pub(crate) fn removals(have: &BTreeMap<SetName, Members>, want: &BTreeMap<SetName, Members>) -> String {
    let mut text = String::new();
    for (name, old) in have {
        let Some(members) = want.get(name) else { continue };
        for net in old.keys().filter(|net| !members.contains_key(*net)) {
            let _infallible = writeln!(text, "del {name} {net}");
        }
    }
    text
}

/// The lines that remove sets.
pub(crate) fn destruction(names: &BTreeSet<SetName>) -> String {
    names.iter().map(|name| format!("destroy {name}\n")).collect()
}

/// Reads what `ipset save` prints; sets of others are skipped.
pub(crate) fn parse(text: &str, family: Family) -> BTreeMap<SetName, Members> {
    let mut sets: BTreeMap<SetName, Members> = BTreeMap::new();
    for line in text.lines() {
        let mut words = line.split(' ');
        let (Some(command), Some(name)) = (words.next(), words.next()) else { continue };
        if !name.starts_with(start(family)) {
            continue;
        }
        let members = sets.entry(SetName(name.to_owned())).or_default();
        if command != "add" {
            continue;
        }
        let word = words.next().unwrap_or_default();
        let net = word.parse().ok().or_else(|| word.parse::<IpAddr>().ok().map(IpNet::from));
        let member = if words.next() == Some("nomatch") { Member::Hole } else { Member::Match };
        members.extend(net.map(|net| (net, member)));
    }
    sets
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(of: &[(&str, u32)]) -> BTreeMap<IpNet, IdentityId> {
        of.iter().map(|(net, id)| (net.parse().expect("prefix"), IdentityId::from_raw(*id))).collect()
    }

    fn of(known: &BTreeMap<IpNet, IdentityId>, id: u32) -> String {
        let id = IdentityId::from_raw(id);
        let members = members(known, &owners(known, Family::V4)[&id], |other| other == id);
        let name = SetName("tp4-x".to_owned());
        additions(&[(name.clone(), Members::new())].into(), &[(name, members)].into(), Family::V4)
    }

    #[test]
    fn an_address_belongs_to_the_longest_prefix() {
        let known = known(&[
            ("10.0.0.0/8", 1),
            ("10.1.0.0/16", 2),
            ("10.1.2.0/24", 1),
            ("10.1.2.3/32", 3),
            ("11.0.0.0/8", 2),
        ]);
        assert_eq!(
            of(&known, 1),
            "add tp4-x 10.0.0.0/8\nadd tp4-x 10.1.0.0/16 nomatch\nadd tp4-x 10.1.2.0/24\nadd tp4-x 10.1.2.3/32 nomatch\n"
        );
        assert_eq!(longest(&known, [10, 1, 2, 3].into()), Some(IdentityId::from_raw(3)));
        assert_eq!(longest(&known, [10, 1, 3, 3].into()), Some(IdentityId::from_raw(2)));
        assert_eq!(longest(&known, [12, 1, 3, 3].into()), None);
    }

    #[test]
    fn everything_is_two_halves_and_a_half_may_be_a_hole() {
        let known = known(&[("0.0.0.0/0", 1), ("128.0.0.0/1", 2), ("::/0", 1)]);
        assert_eq!(of(&known, 1), "add tp4-x 0.0.0.0/1\nadd tp4-x 128.0.0.0/1 nomatch\n");
    }

    #[test]
    fn what_the_program_prints_is_read() {
        let printed = "create tp4-i-300 hash:net family inet hashsize 1024 maxelem 65536 bucketsize 12 initval 0x1\n\
                       add tp4-i-300 10.0.0.1\nadd tp4-i-300 10.1.0.0/16 nomatch\ncreate other hash:ip family inet\nadd other 1.2.3.4\n\
                       create tp6-pods hash:net family inet6\n";
        let sets = parse(printed, Family::V4);
        let want = [("10.0.0.1/32", Member::Match), ("10.1.0.0/16", Member::Hole)];
        let want: Members =
            want.into_iter().map(|(net, member)| (net.parse().expect("prefix"), member)).collect();
        assert_eq!(sets, [(SetName::identity(Family::V4, IdentityId::from_raw(300)), want)].into());
    }

    #[test]
    fn members_come_before_and_go_after() {
        let name = SetName::pods(Family::V4);
        let set = |nets: &[&str]| {
            let members = nets.iter().map(|net| (net.parse().expect("prefix"), Member::Match)).collect();
            BTreeMap::from([(name.clone(), members)])
        };
        let (have, want) = (set(&["10.0.0.1/32", "10.0.0.2/32"]), set(&["10.0.0.2/32", "10.0.0.3/32"]));
        assert_eq!(additions(&have, &want, Family::V4), "add tp4-pods 10.0.0.3/32\n");
        assert_eq!(removals(&have, &want), "del tp4-pods 10.0.0.1/32\n");
    }
}
