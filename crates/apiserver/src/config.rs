//! What an API server is made with: address ranges and the sources of time and randomness.

use std::{fmt, net::IpAddr, ops::RangeInclusive, sync::Arc};

use ipnet::IpNet;
use jiff::Timestamp;

/// Where timestamps come from.
pub trait Clock: Send + Sync {
    /// The time now.
    fn now(&self) -> Timestamp;
}

/// Where uids, generated names and free ports come from.
pub trait Entropy: Send + Sync {
    /// 64 random bits.
    fn next(&self) -> u64;
}

/// The machine's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }
}

/// Randomness that differs from process to process; not for secrets.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemEntropy;

impl Entropy for SystemEntropy {
    fn next(&self) -> u64 {
        fastrand::u64(..)
    }
}

/// How an [`ApiServer`](crate::ApiServer) is set up.
#[derive(Clone)]
pub struct Config {
    /// Ranges that ClusterIPs come from, the primary family first; at most one of each family.
    pub service_cidrs: Vec<IpNet>,
    /// Ports that NodePort and LoadBalancer Services get; health-check node ports come from it too.
    pub node_port_range: RangeInclusive<u16>,
    /// Where the API is reached, written as the endpoints of `default/kubernetes`; without it there are none.
    pub advertise: Option<(IpAddr, u16)>,
    /// Changes kept per resource for watches; a watch from before them is answered 410 Gone.
    pub history: usize,
    /// Source of timestamps.
    pub clock: Arc<dyn Clock>,
    /// Source of randomness.
    pub entropy: Arc<dyn Entropy>,
}

impl Config {
    /// Node ports 30000 to 32767 and 10,000 changes of history, on the machine's clock and randomness.
    pub fn new(service_cidrs: Vec<IpNet>) -> Self {
        Self {
            service_cidrs,
            node_port_range: 30000..=32767,
            advertise: None,
            history: 10_000,
            clock: Arc::new(SystemClock),
            entropy: Arc::new(SystemEntropy),
        }
    }

    /// Now, in the resolution and form that `metav1.Time` has.
    pub(crate) fn now(&self) -> String {
        self.clock.now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
    }

    /// A random version 4 uid.
    pub(crate) fn uid(&self) -> String {
        let bytes = (u128::from(self.entropy.next()) << 64 | u128::from(self.entropy.next())).to_be_bytes();
        uuid::Builder::from_random_bytes(bytes).into_uuid().to_string()
    }

    /// The five characters that `generateName` appends, from the alphabet that spells no words.
    pub(crate) fn name_suffix(&self) -> String {
        const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
        let mut bits = self.entropy.next();
        std::iter::repeat_with(|| {
            let letter = ALPHABET[(bits % ALPHABET.len() as u64) as usize];
            bits /= ALPHABET.len() as u64;
            char::from(letter)
        })
        .take(5)
        .collect()
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("service_cidrs", &self.service_cidrs)
            .field("node_port_range", &self.node_port_range)
            .field("advertise", &self.advertise)
            .field("history", &self.history)
            .finish_non_exhaustive()
    }
}
