//! What this kernel and its iptables can do, found by trying.

use std::num::NonZeroU16;

use dataplane::Feature;
use model::{Family, told::Stop};

use crate::{
    kernel::{Programs, Refusal, Rules as _, account, version},
    render::INVALID_DROPPED,
    rule::Target,
};

/// Made and deleted within one transaction.
const CHAIN: &str = "KUBE-PROXY-PROBE";

/// What decides which rules are written.
#[derive(Clone, Debug)]
pub(crate) struct Probed {
    /// `iptables v1.8.9 (nf_tables)`.
    pub version: String,
    pub accounting: bool,
    pub random_fully: bool,
}

/// # Errors
/// iptables is missing, or a plain rule is refused.
pub(crate) fn probe() -> Result<Probed, Refusal> {
    let version = version(Family::V4)?;
    try_rule("nat", "-m comment --comment probe -j RETURN")?;
    let counter = account::ensure(INVALID_DROPPED);
    let accounting = counter.is_ok()
        && try_rule("nat", &format!("-m nfacct --nfacct-name {INVALID_DROPPED} -j RETURN")).is_ok();
    let random_fully = try_rule("nat", "-j MASQUERADE --random-fully").is_ok();
    Ok(Probed { version, accounting, random_fully })
}

/// Tries a rule that logs: without it, no rule of a node that tells of flows would be accepted.
///
/// # Errors
/// iptables or the kernel has no NFLOG.
pub(crate) fn probe_log(group: NonZeroU16) -> Result<(), Refusal> {
    let target = Target::Log { group, stop: Stop::Invalid };
    try_rule("filter", &target.to_string())
}

/// All features, for display.
pub(crate) fn list(probed: &Probed) -> Vec<Feature> {
    let tried = [
        (
            "statistic",
            "nat",
            "-m statistic --mode random --probability 0.5 -j RETURN",
            "random choice of endpoints",
        ),
        (
            "recent",
            "nat",
            "-m recent --rcheck --seconds 1 --reap --name PROBE --rsource -j RETURN",
            "session affinity",
        ),
        ("addrtype", "nat", "-m addrtype --dst-type LOCAL -j RETURN", "node ports"),
        ("conntrack", "filter", "-m conntrack --ctstate NEW -j RETURN", "state of flows"),
    ];
    let tried = tried.into_iter().map(|(name, table, rule, purpose)| match try_rule(table, rule) {
        Ok(()) => feature(name, true, purpose),
        Err(error) => feature(name, false, &format!("{purpose}: {}", error.problem)),
    });
    let known = [
        feature("iptables", true, &probed.version),
        feature("nfacct", probed.accounting, "counters that survive a rewrite of rules"),
        feature("random-fully", probed.random_fully, "masquerading with random source ports"),
    ];
    known.into_iter().chain(tried).collect()
}

fn feature(name: &str, available: bool, detail: &str) -> Feature {
    Feature { name: name.to_owned(), available, detail: detail.to_owned() }
}

/// Adds a rule to a chain that nothing leads to, and takes both away in the same transaction.
fn try_rule(table: &str, rule: &str) -> Result<(), Refusal> {
    Programs::new(Family::V4)
        .restore(&format!("*{table}\n:{CHAIN} - [0:0]\n-A {CHAIN} {rule}\n-F {CHAIN}\n-X {CHAIN}\nCOMMIT\n"))
}
