//! What the runtime asks: the environment and the configuration on stdin, checked. Pure.

use std::{env, path::PathBuf};

use agent::{client::DEFAULT_SOCKET, wire::Attachment};
use model::PodName;
use serde::Deserialize;
use serde_json::Value;

use crate::{NEWEST, SUPPORTED, error::Error};

/// What the runtime puts into the environment; absent values are empty.
#[derive(Clone, Debug, Default)]
pub(crate) struct Environment {
    pub(crate) command: String,
    pub(crate) container_id: String,
    pub(crate) netns: String,
    pub(crate) ifname: String,
    pub(crate) args: String,
}

/// A request that makes sense.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Call {
    Add { config: Config, attachment: Attachment, netns: PathBuf, pod: PodName },
    Del { config: Config, attachment: Attachment },
    Check { config: Config, attachment: Attachment },
    Gc { config: Config },
    Status { config: Config },
    Version,
}

/// The network configuration, as far as it concerns this plugin.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Config {
    pub(crate) cni_version: String,
    #[serde(default = "default_socket")]
    pub(crate) socket: PathBuf,
    pub(crate) mtu: Option<u32>,
    pub(crate) prev_result: Option<Value>,
    /// For GC: everything else is stale.
    #[serde(rename = "cni.dev/valid-attachments", default)]
    pub(crate) valid_attachments: Vec<Attachment>,
}

fn default_socket() -> PathBuf {
    DEFAULT_SOCKET.into()
}

impl Environment {
    /// `None` where this process was not called as a plugin.
    pub(crate) fn from_process() -> Option<Self> {
        let read = |name| env::var(name).unwrap_or_default();
        Some(Self {
            command: env::var("CNI_COMMAND").ok()?,
            container_id: read("CNI_CONTAINERID"),
            netns: read("CNI_NETNS"),
            ifname: read("CNI_IFNAME"),
            args: read("CNI_ARGS"),
        })
    }

    fn attachment(&self) -> Result<Attachment, Error> {
        self.require(&[("CNI_CONTAINERID", &self.container_id), ("CNI_IFNAME", &self.ifname)])?;
        if !is_interface_name(&self.ifname) {
            return Err(Error::environment(format!("CNI_IFNAME: {:?} is no interface name", self.ifname)));
        }
        Ok(Attachment { container_id: self.container_id.clone(), ifname: self.ifname.clone() })
    }

    fn require(&self, variables: &[(&str, &String)]) -> Result<(), Error> {
        let missing: Vec<_> =
            variables.iter().filter(|(_, value)| value.is_empty()).map(|(name, _)| *name).collect();
        if missing.is_empty() {
            return Ok(());
        }
        Err(Error::environment(format!("{}: not set, but {} needs it", missing.join(", "), self.command)))
    }

    /// The pod's name, where the runtime is a Kubernetes one; the container's otherwise.
    fn pod(&self) -> PodName {
        let arg =
            |key: &str| self.args.split(';').filter_map(|arg| arg.split_once('=')).find(|(k, _)| *k == key);
        match (arg("K8S_POD_NAMESPACE"), arg("K8S_POD_NAME")) {
            (Some((_, namespace)), Some((_, name))) => {
                PodName { namespace: namespace.to_owned(), name: name.to_owned() }
            }
            _ => PodName { namespace: String::new(), name: self.container_id.clone() },
        }
    }
}

/// Reads and checks the whole request.
pub(crate) fn read(environment: &Environment, stdin: &str) -> Result<Call, Error> {
    if environment.command == "VERSION" {
        return Ok(Call::Version);
    }
    let config: Config = serde_json::from_str(stdin).map_err(|error| Error::decode(error.to_string()))?;
    if !SUPPORTED.contains(&config.cni_version.as_str()) {
        return Err(Error::incompatible(&config.cni_version));
    }
    match environment.command.as_str() {
        "ADD" => {
            environment.require(&[("CNI_NETNS", &environment.netns)])?;
            Ok(Call::Add {
                config,
                attachment: environment.attachment()?,
                netns: environment.netns.clone().into(),
                pod: environment.pod(),
            })
        }
        "DEL" => Ok(Call::Del { config, attachment: environment.attachment()? }),
        "CHECK" => Ok(Call::Check { config, attachment: environment.attachment()? }),
        "GC" => Ok(Call::Gc { config }),
        "STATUS" => Ok(Call::Status { config }),
        other => Err(Error::environment(format!("CNI_COMMAND: unknown command {other:?}"))),
    }
}

/// The version to answer in, also where the rest of the configuration is unreadable.
pub(crate) fn version_of(stdin: &str) -> String {
    let config: Option<Value> = serde_json::from_str(stdin).ok();
    let asked = config.as_ref().and_then(|config| config["cniVersion"].as_str());
    asked.filter(|version| SUPPORTED.contains(version)).unwrap_or(NEWEST).to_owned()
}

/// As the kernel's `dev_valid_name` has it.
fn is_interface_name(name: &str) -> bool {
    name.len() < 16
        && !matches!(name, "." | "..")
        && !name.contains(|c: char| matches!(c, '/' | ':') || c.is_whitespace())
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str =
        r#"{"cniVersion":"1.1.0","name":"pods","type":"twinplane","socket":"/run/x.sock","mtu":1400}"#;

    fn environment(command: &str) -> Environment {
        Environment {
            command: command.into(),
            container_id: "c1".into(),
            netns: "/run/netns/p".into(),
            ifname: "eth0".into(),
            args: "IgnoreUnknown=1;K8S_POD_NAMESPACE=ns;K8S_POD_NAME=web-0".into(),
        }
    }

    fn refused(environment: &Environment, stdin: &str) -> (u32, String) {
        let error = read(environment, stdin).expect_err("must be refused");
        (error.code, error.message)
    }

    #[test]
    fn add_carries_pod_netns_socket_and_mtu() {
        let Ok(Call::Add { config, attachment, netns, pod }) = read(&environment("ADD"), CONFIG) else {
            panic!("must be an ADD");
        };
        assert_eq!((config.socket, config.mtu), ("/run/x.sock".into(), Some(1400)));
        assert_eq!((attachment.container_id.as_str(), attachment.ifname.as_str()), ("c1", "eth0"));
        assert_eq!((netns, pod.to_string()), ("/run/netns/p".into(), "ns/web-0".into()));
    }

    #[test]
    fn without_kubernetes_the_container_names_the_pod() {
        let environment = Environment { args: "IgnoreUnknown=1".into(), ..environment("ADD") };
        let Ok(Call::Add { pod, .. }) = read(&environment, CONFIG) else { panic!("must be an ADD") };
        assert_eq!(pod.to_string(), "/c1");
    }

    #[test]
    fn what_is_missing_or_unknown_is_named_with_the_specs_code() {
        let add = environment("ADD");
        for (environment, stdin, code, message) in [
            (
                Environment { netns: String::new(), ..add.clone() },
                CONFIG,
                4,
                "CNI_NETNS: not set, but ADD needs it",
            ),
            (
                Environment { container_id: String::new(), ifname: String::new(), ..environment("DEL") },
                CONFIG,
                4,
                "CNI_CONTAINERID, CNI_IFNAME: not set, but DEL needs it",
            ),
            (
                Environment { ifname: "a/b".into(), ..add.clone() },
                CONFIG,
                4,
                "CNI_IFNAME: \"a/b\" is no interface name",
            ),
            (environment("FROB"), CONFIG, 4, "CNI_COMMAND: unknown command \"FROB\""),
            (
                add.clone(),
                r#"{"cniVersion":"9.0.0"}"#,
                1,
                "version 9.0.0 of the spec is not supported; supported are 0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0",
            ),
        ] {
            assert_eq!(refused(&environment, stdin), (code, message.to_owned()));
        }
        assert_eq!(refused(&add, "{").0, 6);
        assert_eq!(refused(&add, "{}").0, 6);
    }

    #[test]
    fn del_needs_no_namespace_because_it_may_be_gone() {
        let environment = Environment { netns: String::new(), ..environment("DEL") };
        assert!(matches!(read(&environment, CONFIG), Ok(Call::Del { .. })));
    }

    #[test]
    fn gc_lists_what_is_valid() {
        let config =
            r#"{"cniVersion":"1.1.0","cni.dev/valid-attachments":[{"containerID":"a","ifname":"eth0"}]}"#;
        let environment = Environment { command: "GC".into(), ..Environment::default() };
        let Ok(Call::Gc { config }) = read(&environment, config) else { panic!("must be a GC") };
        assert_eq!(config.valid_attachments[0].container_id, "a");
    }
}
