//! One rule as a value, and its text in the form that `iptables-restore` reads.
//!
//! Only what kube-proxy's rules are made of. Defaults that `iptables-save` spells out (`--mask`, `--reject-with`)
//! are not written; [`crate::parse`] accepts them.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    num::NonZeroU16,
};

use ipnet::IpNet;
use model::{Port, Protocol, told::Stop};

use crate::names::ChainName;

/// Matches that must all hold, and what happens then.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    pub source: Option<Prefix>,
    pub destination: Option<Prefix>,
    pub protocol: Option<Protocol>,
    pub matches: Vec<Match>,
    /// `None` only counts.
    pub target: Option<Target>,
}

/// An address match. Never of length zero: that is no match at all, and `iptables-save` omits it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix {
    pub negated: bool,
    pub net: IpNet,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Match {
    Comment(String),
    /// `-m tcp [--dport PORT]`.
    Transport {
        protocol: Protocol,
        destination: Option<Port>,
    },
    ConnState {
        negated: bool,
        states: Vec<ConnState>,
    },
    Mark {
        negated: bool,
        value: u32,
        mask: u32,
    },
    SourceLocal,
    DestinationLocal,
    Statistic(Probability),
    /// `-m recent --rcheck`: the source was seen within `seconds`; older entries are dropped.
    RecentCheck {
        list: ChainName,
        seconds: u32,
    },
    RecentSet {
        list: ChainName,
    },
    /// Counts the packet in a named counter that no rewrite of rules resets.
    Account(String),
}

/// A conntrack state, in the order `iptables-save` prints them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ConnState {
    Invalid,
    New,
    Related,
    Established,
    Dnat,
}

impl ConnState {
    pub(crate) const ALL: [(Self, &str); 5] = [
        (Self::Invalid, "INVALID"),
        (Self::New, "NEW"),
        (Self::Related, "RELATED"),
        (Self::Established, "ESTABLISHED"),
        (Self::Dnat, "DNAT"),
    ];
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    Jump(ChainName),
    Accept,
    Drop,
    Return,
    /// Port unreachable, in the family's own ICMP.
    Reject,
    SetMark {
        value: u32,
        mask: u32,
    },
    Masquerade {
        random_fully: bool,
    },
    Dnat(SocketAddr),
    /// Tells who listens to the group of a packet that the next rule stops.
    Log {
        group: NonZeroU16,
        stop: Stop,
    },
}

/// A chance, in units of 2^-31 as the kernel keeps it (`xt_statistic`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probability(pub(crate) u32);

impl Probability {
    const ONE: f64 = 0x8000_0000_u32 as f64;

    /// One in `n`, rounded to the ten decimals that kube-proxy writes.
    pub fn one_in(n: usize) -> Self {
        let decimals = (1e10 / n as f64).round() / 1e10;
        Self::from_fraction(decimals)
    }

    pub(crate) fn from_fraction(fraction: f64) -> Self {
        Self((fraction * Self::ONE).round() as u32)
    }

    pub fn fraction(self) -> f64 {
        f64::from(self.0) / Self::ONE
    }
}

impl Rule {
    pub fn new() -> Self {
        Self::default()
    }

    #[must_use]
    pub fn from(mut self, net: impl Into<IpNet>) -> Self {
        self.source = Prefix::new(net.into(), false);
        self
    }

    #[must_use]
    pub fn not_from(mut self, net: impl Into<IpNet>) -> Self {
        self.source = Prefix::new(net.into(), true);
        self
    }

    #[must_use]
    pub fn to(mut self, net: impl Into<IpNet>) -> Self {
        self.destination = Prefix::new(net.into(), false);
        self
    }

    #[must_use]
    pub fn not_to(mut self, net: impl Into<IpNet>) -> Self {
        self.destination = Prefix::new(net.into(), true);
        self
    }

    #[must_use]
    pub fn protocol(mut self, protocol: Protocol) -> Self {
        self.protocol = Some(protocol);
        self
    }

    #[must_use]
    pub fn when(mut self, condition: Match) -> Self {
        self.matches.push(condition);
        self
    }

    #[must_use]
    pub fn comment(self, text: impl Into<String>) -> Self {
        self.when(Match::Comment(text.into()))
    }

    #[must_use]
    pub fn port(self, protocol: Protocol, port: Port) -> Self {
        self.when(Match::Transport { protocol, destination: Some(port) })
    }

    #[must_use]
    pub fn then(mut self, target: Target) -> Self {
        self.target = Some(target);
        self
    }

    #[must_use]
    pub fn jump(self, chain: impl Into<ChainName>) -> Self {
        self.then(Target::Jump(chain.into()))
    }

    /// The chain this rule continues in, if it does.
    pub fn jumps_to(&self) -> Option<&ChainName> {
        match &self.target {
            Some(Target::Jump(chain)) => Some(chain),
            _ => None,
        }
    }

    /// The rule's comment, if it has one.
    pub fn comment_text(&self) -> Option<&str> {
        self.matches.iter().find_map(|m| match m {
            Match::Comment(text) => Some(text.as_str()),
            _ => None,
        })
    }

    /// The destination port it matches, if any.
    pub fn destination_port(&self) -> Option<Port> {
        self.matches.iter().find_map(|m| match m {
            Match::Transport { destination, .. } => *destination,
            _ => None,
        })
    }
}

impl Prefix {
    pub(crate) fn new(net: IpNet, negated: bool) -> Option<Self> {
        (net.prefix_len() > 0).then(|| Self { negated, net: net.trunc() })
    }

    pub fn holds(&self, address: IpAddr) -> bool {
        self.net.contains(&address) != self.negated
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut space = "";
        let mut word = |f: &mut fmt::Formatter<'_>, part: fmt::Arguments<'_>| {
            write!(f, "{space}{part}")?;
            space = " ";
            Ok::<_, fmt::Error>(())
        };
        for (flag, prefix) in [("-s", &self.source), ("-d", &self.destination)] {
            if let Some(Prefix { negated, net }) = prefix {
                word(f, format_args!("{}{flag} {net}", not(*negated)))?;
            }
        }
        if let Some(protocol) = self.protocol {
            word(f, format_args!("-p {}", protocol.lowercase()))?;
        }
        for condition in &self.matches {
            word(f, format_args!("{condition}"))?;
        }
        match &self.target {
            Some(target) => word(f, format_args!("{target}")),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Match {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Comment(text) => write!(f, "-m comment --comment {}", Quoted(text)),
            Self::Transport { protocol, destination: None } => write!(f, "-m {}", protocol.lowercase()),
            Self::Transport { protocol, destination: Some(port) } => {
                write!(f, "-m {} --dport {port}", protocol.lowercase())
            }
            Self::ConnState { negated, states } => {
                write!(f, "-m conntrack {}--ctstate ", not(*negated))?;
                let names = ConnState::ALL.iter().filter(|(state, _)| states.contains(state));
                f.write_str(&names.map(|(_, name)| *name).collect::<Vec<_>>().join(","))
            }
            Self::Mark { negated, value, mask } => {
                write!(f, "-m mark {}--mark {value:#x}/{mask:#x}", not(*negated))
            }
            Self::SourceLocal => f.write_str("-m addrtype --src-type LOCAL"),
            Self::DestinationLocal => f.write_str("-m addrtype --dst-type LOCAL"),
            // Eleven decimals tell any two neighbouring values apart.
            Self::Statistic(probability) => {
                write!(f, "-m statistic --mode random --probability {:.11}", probability.fraction())
            }
            Self::RecentCheck { list, seconds } => {
                write!(f, "-m recent --rcheck --seconds {seconds} --reap --name {list} --rsource")
            }
            Self::RecentSet { list } => write!(f, "-m recent --set --name {list} --rsource"),
            Self::Account(name) => write!(f, "-m nfacct --nfacct-name {name}"),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Jump(chain) => write!(f, "-j {chain}"),
            Self::Accept => f.write_str("-j ACCEPT"),
            Self::Drop => f.write_str("-j DROP"),
            Self::Return => f.write_str("-j RETURN"),
            Self::Reject => f.write_str("-j REJECT"),
            Self::SetMark { value, mask } => write!(f, "-j MARK --set-xmark {value:#x}/{mask:#x}"),
            Self::Masquerade { random_fully: false } => f.write_str("-j MASQUERADE"),
            Self::Masquerade { random_fully: true } => f.write_str("-j MASQUERADE --random-fully"),
            Self::Dnat(address) => write!(f, "-j DNAT --to-destination {address}"),
            Self::Log { group, stop } => {
                write!(f, "-j NFLOG --nflog-prefix {} --nflog-group {group}", stop.name())
            }
        }
    }
}

/// Text as `iptables-save` quotes it (`xtables_save_string`).
pub(crate) struct Quoted<'a>(pub(crate) &'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        if !self.0.is_empty() && self.0.chars().all(plain) {
            return f.write_str(self.0);
        }
        f.write_str("\"")?;
        for c in self.0.chars() {
            if matches!(c, '"' | '\\' | '\'') {
                f.write_str("\\")?;
            }
            write!(f, "{c}")?;
        }
        f.write_str("\"")
    }
}

const fn not(negated: bool) -> &'static str {
    if negated { "! " } else { "" }
}
