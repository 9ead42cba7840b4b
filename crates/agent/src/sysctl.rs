//! Kernel settings of this node's network namespace that forwarding needs.

use std::{fs, io, path::PathBuf};

/// One setting: its path below `/proc/sys`, the value, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Setting {
    pub(crate) path: String,
    pub(crate) value: &'static str,
    pub(crate) why: &'static str,
}

fn setting(path: impl Into<String>, value: &'static str, why: &'static str) -> Setting {
    Setting { path: path.into(), value, why }
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

/// Writes `setting` where it differs; returns whether it did.
///
/// # Errors
/// There is no such setting, or it may not be written.
pub(crate) fn apply(setting: &Setting) -> io::Result<bool> {
    let path = PathBuf::from("/proc/sys").join(&setting.path);
    if fs::read_to_string(&path)?.trim() == setting.value {
        return Ok(false);
    }
    fs::write(&path, setting.value)?;
    Ok(true)
}

/// Applies all; what cannot be set is logged and survived, since the value may suffice as it is.
pub(crate) fn apply_all(settings: &[Setting]) {
    for setting in settings {
        match apply(setting) {
            Ok(true) => {
                tracing::info!(setting = setting.path, value = setting.value, why = setting.why, "set")
            }
            Ok(false) => {}
            Err(error) => tracing::warn!(setting = setting.path, %error, why = setting.why, "cannot set"),
        }
    }
}
