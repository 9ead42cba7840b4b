//! Kernel settings of this node's network namespace that forwarding needs.

use std::{borrow::Cow, fs, io, path::PathBuf, time::Duration};

/// One setting: its path below `/proc/sys`, the value, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Setting {
    pub(crate) path: String,
    pub(crate) value: Cow<'static, str>,
    pub(crate) why: &'static str,
}

fn setting(path: impl Into<String>, value: impl Into<Cow<'static, str>>, why: &'static str) -> Setting {
    Setting { path: path.into(), value: value.into(), why }
}

/// What a node needs whose devices are `uplinks`.
pub(crate) fn of_node(uplinks: &[String], ipv6: bool) -> Vec<Setting> {
    let mut settings = vec![setting("net/ipv4/ip_forward", "1", "pods are reached through this node")];
    if ipv6 {
        settings.push(setting("net/ipv6/conf/all/forwarding", "1", "pods are reached through this node"));
    }
    for interface in ["all"].into_iter().chain(uplinks.iter().map(String::as_str)) {
        settings.push(setting(
            format!("net/ipv4/conf/{interface}/rp_filter"),
            "0",
            "replies of services may arrive by another interface than requests leave by",
        ));
        settings.push(setting(
            format!("net/ipv4/conf/{interface}/send_redirects"),
            "0",
            "a request that is forwarded to another node leaves by the interface it came in by",
        ));
    }
    settings
}

/// What the host's end of a pod's veth pair needs.
pub(crate) fn of_pod(interface: &str) -> Vec<Setting> {
    vec![
        setting(
            format!("net/ipv4/conf/{interface}/rp_filter"),
            "0",
            "the interface has no address to compare with",
        ),
        setting(
            format!("net/ipv4/conf/{interface}/send_redirects"),
            "0",
            "a pod has one way out and needs no advice",
        ),
    ]
}

/// Limits of the kernel's connection tracking. Zero leaves the kernel's own value alone, as with kube-proxy, whose defaults
/// these have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conntrack {
    /// Entries for each core.
    pub max_per_core: u32,
    /// Entries at least, whatever the number of cores.
    pub min: u32,
    pub tcp_established: Duration,
    pub tcp_close_wait: Duration,
    /// Packets outside the window are forwarded, and not taken for invalid.
    pub tcp_be_liberal: bool,
    pub udp: Duration,
    pub udp_stream: Duration,
}

impl Default for Conntrack {
    fn default() -> Self {
        Self {
            max_per_core: 32_768,
            min: 131_072,
            tcp_established: Duration::from_secs(24 * 3600),
            tcp_close_wait: Duration::from_secs(3600),
            tcp_be_liberal: false,
            udp: Duration::ZERO,
            udp_stream: Duration::ZERO,
        }
    }
}

/// What connection tracking is set to on a machine with so many cores.
pub(crate) fn of_conntrack(conntrack: &Conntrack, cores: u32) -> Vec<Setting> {
    let mut settings = vec![];
    let mut set = |name: &str, value: u64, why| {
        if value != 0 {
            settings.push(setting(format!("net/netfilter/nf_conntrack_{name}"), value.to_string(), why));
        }
    };
    if conntrack.max_per_core != 0 {
        let entries = (u64::from(conntrack.max_per_core) * u64::from(cores)).max(conntrack.min.into());
        set("max", entries, "every flow through a Service has an entry");
    }
    let why = "idle flows are forgotten after this long";
    set("tcp_timeout_established", conntrack.tcp_established.as_secs(), why);
    set(
        "tcp_timeout_close_wait",
        conntrack.tcp_close_wait.as_secs(),
        "a half-closed flow may still carry data",
    );
    set("tcp_be_liberal", conntrack.tcp_be_liberal.into(), "packets outside the window are forwarded");
    set("udp_timeout", conntrack.udp.as_secs(), why);
    set("udp_timeout_stream", conntrack.udp_stream.as_secs(), why);
    settings
}

/// What a tunnel needs.
pub(crate) fn of_tunnel(interface: &str) -> Vec<Setting> {
    vec![
        setting(
            format!("net/ipv4/conf/{interface}/rp_filter"),
            "0",
            "replies of services may arrive by another interface than requests leave by",
        ),
        setting(
            format!("net/ipv4/conf/{interface}/send_redirects"),
            "0",
            "no node reaches another's pods by a better way",
        ),
    ]
}

/// Writes `setting` where it differs; returns whether it did.
///
/// # Errors
/// There is no such setting, or it may not be written.
pub(crate) fn apply(setting: &Setting) -> io::Result<bool> {
    let path = PathBuf::from("/proc/sys").join(&setting.path);
    if fs::read_to_string(&path)?.trim() == setting.value {
        return Ok(false);
    }
    fs::write(&path, &*setting.value)?;
    Ok(true)
}

/// Applies all; what cannot be set is logged and survived, since the value may suffice as it is.
pub(crate) fn apply_all(settings: &[Setting]) {
    for setting in settings {
        match apply(setting) {
            Ok(true) => {
                tracing::info!(setting = setting.path, value = %setting.value, why = setting.why, "set")
            }
            Ok(false) => {}
            Err(error) => tracing::warn!(setting = setting.path, %error, why = setting.why, "cannot set"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(conntrack: &Conntrack, cores: u32) -> Vec<String> {
        let line = |setting: Setting| {
            format!("{} {}", setting.path.trim_start_matches("net/netfilter/nf_conntrack_"), setting.value)
        };
        of_conntrack(conntrack, cores).into_iter().map(line).collect()
    }

    #[test]
    fn fact_102_connection_tracking_has_kube_proxys_defaults_and_zero_leaves_alone() {
        let close_wait = "tcp_timeout_close_wait 3600";
        assert_eq!(of(&Conntrack::default(), 2), ["max 131072", "tcp_timeout_established 86400", close_wait]);
        assert_eq!(of(&Conntrack::default(), 8)[0], "max 262144");
        let none = Conntrack {
            max_per_core: 0,
            tcp_established: Duration::ZERO,
            tcp_close_wait: Duration::ZERO,
            ..Conntrack::default()
        };
        assert_eq!(of(&none, 8), [""; 0]);
        let all = Conntrack {
            tcp_be_liberal: true,
            udp: Duration::from_secs(10),
            udp_stream: Duration::from_secs(20),
            ..none
        };
        assert_eq!(of(&all, 8), ["tcp_be_liberal 1", "udp_timeout 10", "udp_timeout_stream 20"]);
    }
}
