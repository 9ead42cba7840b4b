//! Protocols and destination ports: what a packet has, what a row matches, longest match first.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

use super::{Action, Rank, RuleId};
use crate::Protocol;

/// What of a packet is compared besides its addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum L4 {
    /// Destination port in host order; 0 is possible on the wire.
    Port(Protocol, u16),
    /// ICMP and whatever else has no ports: matched by rules that name no protocol.
    Other,
}

impl fmt::Display for L4 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Port(protocol, port) => write!(f, "{port}/{protocol}"),
            Self::Other => f.write_str("no port"),
        }
    }
}

/// All ports that share their first bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PortPrefix {
    first: u16,
    length: u8,
}

/// A port has 16 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("port prefix must be of 0 to 16 bits, not {0}")]
pub struct InvalidPrefixLength(pub u8);

impl PortPrefix {
    /// Every port.
    pub const ALL: Self = Self { first: 0, length: 0 };

    /// The ports that agree with `port` in the first `length` bits.
    pub const fn new(port: u16, length: u8) -> Result<Self, InvalidPrefixLength> {
        match length {
            0 => Ok(Self::ALL),
            1..=16 => Ok(Self { first: port & (u16::MAX << (16 - length)), length }),
            _ => Err(InvalidPrefixLength(length)),
        }
    }

    /// Just `port`.
    pub const fn one(port: u16) -> Self {
        Self { first: port, length: 16 }
    }

    /// The lowest of them.
    pub const fn first(self) -> u16 {
        self.first
    }

    /// The highest of them.
    pub const fn last(self) -> u16 {
        match self.length {
            0 => u16::MAX,
            length => self.first | (((1u32 << (16 - length)) - 1) as u16),
        }
    }

    /// In bits, 0 to 16.
    pub const fn length(self) -> u8 {
        self.length
    }

    pub const fn contains(self, port: u16) -> bool {
        self.first <= port && port <= self.last()
    }

    /// The fewest prefixes that hold `first` to `last`, inclusive, in order. None if `first` is after `last`.
    pub fn of_range(first: u16, last: u16) -> Vec<Self> {
        let (mut at, end) = (u32::from(first), u32::from(last) + 1);
        let mut prefixes = vec![];
        while at < end {
            let aligned = if at == 0 { 16 } else { at.trailing_zeros() };
            let bits = aligned.min((end - at).ilog2()).min(16);
            prefixes.push(Self { first: at as u16, length: 16 - bits as u8 });
            at += 1 << bits;
        }
        prefixes
    }
}

impl fmt::Display for PortPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.length {
            0 => f.write_str("any"),
            16 => self.first.fmt(f),
            _ => write!(f, "{}-{}", self.first, self.last()),
        }
    }
}

/// What a row matches. Each is broader than the next it contains.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum L4Match {
    /// Every packet, ICMP and other protocols among them.
    Any,
    Ports(Protocol, PortPrefix),
}

impl L4Match {
    pub const fn matches(self, l4: L4) -> bool {
        match (self, l4) {
            (Self::Any, _) => true,
            (Self::Ports(protocol, prefix), L4::Port(of, port)) => {
                protocol.number() == of.number() && prefix.contains(port)
            }
            (Self::Ports(..), L4::Other) => false,
        }
    }

    /// Whether everything that `narrower` matches is matched by this, too.
    pub const fn contains(self, narrower: Self) -> bool {
        match (self, narrower) {
            (Self::Any, _) => true,
            (Self::Ports(..), Self::Any) => false,
            (Self::Ports(protocol, prefix), Self::Ports(of, other)) => {
                protocol.number() == of.number()
                    && prefix.length <= other.length
                    && prefix.contains(other.first)
            }
        }
    }

    /// The next broader one.
    pub const fn parent(self) -> Option<Self> {
        match self {
            Self::Any => None,
            Self::Ports(_, PortPrefix { length: 0, .. }) => Some(Self::Any),
            Self::Ports(protocol, prefix) => match PortPrefix::new(prefix.first, prefix.length - 1) {
                Ok(broader) => Some(Self::Ports(protocol, broader)),
                Err(_) => None,
            },
        }
    }
}

impl fmt::Display for L4Match {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("any"),
            Self::Ports(protocol, prefix) => write!(f, "{prefix}/{protocol}"),
        }
    }
}

/// What is done, how strong it is, and who says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PortAction {
    pub rank: Rank,
    pub action: Action,
    pub rule: RuleId,
}

/// Actions by what they match: the longest match decides.
///
/// Invariant: none is contained in a broader one of the same or a lower rank: whoever is longest is right.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortMap(BTreeMap<L4Match, PortAction>);

impl PortMap {
    /// Of all matches: where several are equal the first of the lowest rank is taken, and whatever can never decide is left
    /// out.
    pub fn new(matches: impl IntoIterator<Item = (L4Match, PortAction)>) -> Self {
        let mut all: BTreeMap<L4Match, PortAction> = BTreeMap::new();
        for (l4, action) in matches {
            let kept = all.entry(l4).or_insert(action);
            if action.rank < kept.rank {
                *kept = action;
            }
        }
        let beaten = |l4: &L4Match, action: &PortAction| {
            let broader = std::iter::successors(l4.parent(), |l4| l4.parent());
            broader.filter_map(|l4| all.get(&l4)).any(|broad| broad.rank <= action.rank)
        };
        let kept = all.iter().filter(|(l4, action)| !beaten(l4, action));
        Self(kept.map(|(l4, action)| (*l4, *action)).collect())
    }

    /// What decides about `l4`.
    pub fn get(&self, l4: L4) -> Option<&PortAction> {
        let longest = match l4 {
            L4::Port(protocol, port) => L4Match::Ports(protocol, PortPrefix::one(port)),
            L4::Other => L4Match::Any,
        };
        std::iter::successors(Some(longest), |l4| l4.parent()).find_map(|l4| self.0.get(&l4))
    }

    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&L4Match, &PortAction)> {
        self.0.iter()
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn action(rank: u32, action: Action) -> PortAction {
        PortAction { rank: Rank(rank), action, rule: RuleId(rank + 1) }
    }

    fn ports(first: u16, last: u16) -> Vec<L4Match> {
        PortPrefix::of_range(first, last).into_iter().map(|p| L4Match::Ports(Protocol::Tcp, p)).collect()
    }

    #[test]
    fn a_range_is_just_its_ports() {
        for (first, last) in
            [(0, 65_535), (1, 65_535), (80, 80), (1000, 2000), (32_768, 65_535), (65_535, 65_535)]
        {
            let prefixes = PortPrefix::of_range(first, last);
            assert!(prefixes.windows(2).all(|two| two[0].last() + 1 == two[1].first()), "{first}-{last}");
            assert_eq!((prefixes[0].first(), prefixes[prefixes.len() - 1].last()), (first, last));
        }
        assert_eq!(PortPrefix::of_range(0, 65_535), [PortPrefix::ALL]);
        assert_eq!(PortPrefix::of_range(1, 65_534).len(), 30, "the worst");
        assert_eq!(PortPrefix::of_range(2, 1), []);
    }

    #[test]
    fn the_longest_match_is_the_strongest() {
        let mut all = vec![(L4Match::Any, action(5, Action::Deny))];
        all.extend(ports(80, 81).into_iter().map(|l4| (l4, action(3, Action::Allow))));
        all.extend(ports(80, 80).into_iter().map(|l4| (l4, action(9, Action::Pass))));
        all.extend(ports(0, 65_535).into_iter().map(|l4| (l4, action(7, Action::Allow))));
        let map = PortMap::new(all);
        assert_eq!(map.len(), 2, "{map:?}");
        assert_eq!(map.get(L4::Port(Protocol::Tcp, 80)), Some(&action(3, Action::Allow)));
        assert_eq!(map.get(L4::Port(Protocol::Tcp, 82)), Some(&action(5, Action::Deny)));
        assert_eq!(map.get(L4::Other), Some(&action(5, Action::Deny)));
    }

    #[test]
    fn of_equal_matches_the_lowest_rank_is_kept() {
        let both = [(L4Match::Any, action(5, Action::Deny)), (L4Match::Any, action(3, Action::Allow))];
        assert_eq!(PortMap::new(both).get(L4::Other), Some(&action(3, Action::Allow)));
    }
}
