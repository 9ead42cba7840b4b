//! The container-runtime side of the CNI protocol (spec 1.1): executes the plugin, reads its answer.
//!
//! Never interprets the network: addresses come out as the plugin gives them.

use std::{
    io,
    net::IpAddr,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use ipnet::IpNet;
use serde::Deserialize;
use tokio::{io::AsyncWriteExt as _, process::Command};

const VERSION: &str = "1.1.0";
/// The name of the plugin in its configuration.
const TYPE: &str = "twinplane";
/// A plugin that takes longer is ended.
const PATIENCE: Duration = Duration::from_secs(30);

/// Which plugin, and which agent it shall ask.
#[derive(Clone, Debug)]
pub(super) struct Plugin {
    pub(super) executable: PathBuf,
    pub(super) socket: PathBuf,
}

/// The pod a call is about.
#[derive(Clone, Debug)]
pub(super) struct Attachment<'a> {
    pub(super) container_id: &'a str,
    pub(super) netns: &'a Path,
    pub(super) namespace: &'a str,
    pub(super) name: &'a str,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("run CNI plugin {executable}")]
    Run {
        executable: String,
        #[source]
        source: io::Error,
    },
    #[error("plugin type=\"{TYPE}\" failed ({command}): {message}")]
    Refused { command: &'static str, message: String },
    #[error("read the answer of CNI {command}")]
    Answer {
        command: &'static str,
        #[source]
        source: serde_json::Error,
    },
    #[error("CNI add gave no address")]
    NoAddress,
}

#[derive(Debug, Deserialize)]
struct AddResult {
    #[serde(default)]
    ips: Vec<AddedIp>,
}

#[derive(Debug, Deserialize)]
struct AddedIp {
    address: IpNet,
}

#[derive(Debug, Default, Deserialize)]
struct Failure {
    #[serde(default)]
    msg: String,
    #[serde(default)]
    details: String,
}

impl Plugin {
    /// Attaches the pod's namespace; returns the pod's addresses, the primary one first.
    pub(super) async fn add(&self, attachment: &Attachment<'_>) -> Result<Vec<IpAddr>, Error> {
        let answer = self.call("add", Some(attachment)).await?;
        let result: AddResult =
            serde_json::from_slice(&answer).map_err(|source| Error::Answer { command: "add", source })?;
        let addresses: Vec<_> = result.ips.iter().map(|ip| ip.address.addr()).collect();
        if addresses.is_empty() { Err(Error::NoAddress) } else { Ok(addresses) }
    }

    /// Detaches it; done already is a success by the protocol.
    pub(super) async fn del(&self, attachment: &Attachment<'_>) -> Result<(), Error> {
        self.call("del", Some(attachment)).await.map(drop)
    }

    /// Whether the plugin could attach pods now.
    pub(super) async fn status(&self) -> Result<(), Error> {
        self.call("status", None).await.map(drop)
    }

    async fn call(
        &self,
        command: &'static str,
        attachment: Option<&Attachment<'_>>,
    ) -> Result<Vec<u8>, Error> {
        let failed = |source| Error::Run { executable: self.executable.display().to_string(), source };
        let mut process = Command::new(&self.executable);
        process.env("CNI_COMMAND", command.to_uppercase());
        process.env("CNI_PATH", self.executable.parent().unwrap_or(Path::new("/")));
        if let Some(attachment) = attachment {
            let Attachment { container_id, netns, namespace, name } = attachment;
            let args = format!(
                "IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={name};\
                 K8S_POD_INFRA_CONTAINER_ID={container_id};K8S_POD_UID={container_id}"
            );
            process.env("CNI_CONTAINERID", container_id).env("CNI_NETNS", netns).env("CNI_IFNAME", "eth0");
            process.env("CNI_ARGS", args);
        }
        process.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = process.spawn().map_err(failed)?;
        let mut stdin = child.stdin.take();
        let exchange = async {
            if let Some(stdin) = &mut stdin {
                // A plugin that ends without reading has an answer of its own.
                let _ = stdin.write_all(&self.configuration()).await;
            }
            drop(stdin);
            child.wait_with_output().await
        };
        let output = tokio::time::timeout(PATIENCE, exchange)
            .await
            .map_err(|_| failed(io::Error::from(io::ErrorKind::TimedOut)))?
            .map_err(failed)?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        let failure: Failure = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let stderr = String::from_utf8_lossy(&output.stderr);
        let texts = [failure.msg.as_str(), failure.details.as_str(), stderr.trim()];
        let told: Vec<_> = texts.into_iter().filter(|text| !text.is_empty()).collect();
        let message = if told.is_empty() { output.status.to_string() } else { told.join(": ") };
        Err(Error::Refused { command, message })
    }

    fn configuration(&self) -> Vec<u8> {
        let configuration = serde_json::json!({
            "cniVersion": VERSION, "name": "lab", "type": TYPE, "socket": self.socket,
        });
        configuration.to_string().into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use super::*;

    fn plugin(directory: &Path, script: &str) -> Plugin {
        let executable = directory.join("plugin");
        fs::write(&executable, format!("#!/bin/sh\ncat > {}/stdin\n{script}\n", directory.display()))
            .expect("write");
        fs::set_permissions(&executable, fs::Permissions::from_mode(0o755)).expect("mode");
        Plugin { executable, socket: PathBuf::from("/run/agent.sock") }
    }

    fn attachment() -> Attachment<'static> {
        Attachment { container_id: "u-1", netns: Path::new("/x/n"), namespace: "test", name: "web-0" }
    }

    fn calls(script: &str) -> (tempfile::TempDir, Plugin) {
        let directory = tempfile::tempdir().expect("directory");
        let plugin = plugin(directory.path(), script);
        (directory, plugin)
    }

    #[tokio::test]
    async fn add_tells_the_plugin_everything_and_returns_its_addresses() {
        let (directory, plugin) = calls(
            r#"env | grep ^CNI_ | sort > "$0.env"
            echo '{"cniVersion":"1.1.0","ips":[{"address":"10.20.0.5/24"},{"address":"fd00::5/64"}]}'"#,
        );
        let addresses = plugin.add(&attachment()).await.expect("add");
        assert_eq!(addresses, ["10.20.0.5", "fd00::5"].map(|text| text.parse::<IpAddr>().expect("address")));
        let env = fs::read_to_string(directory.path().join("plugin.env")).expect("env");
        for line in [
            "CNI_COMMAND=ADD",
            "CNI_CONTAINERID=u-1",
            "CNI_IFNAME=eth0",
            "CNI_NETNS=/x/n",
            "CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=test;K8S_POD_NAME=web-0;\
             K8S_POD_INFRA_CONTAINER_ID=u-1;K8S_POD_UID=u-1",
        ] {
            assert!(env.lines().any(|have| have == line), "{line} in {env}");
        }
        let stdin = fs::read_to_string(directory.path().join("stdin")).expect("stdin");
        let configuration: serde_json::Value = serde_json::from_str(&stdin).expect("configuration");
        let wanted = serde_json::json!({
            "cniVersion": "1.1.0", "name": "lab", "type": "twinplane", "socket": "/run/agent.sock",
        });
        assert_eq!(configuration, wanted);
    }

    #[tokio::test]
    async fn a_refusal_carries_the_plugins_words() {
        let (_directory, plugin) =
            calls(r#"echo '{"code":11,"msg":"agent is starting","details":"no node"}'; exit 1"#);
        let error = plugin.add(&attachment()).await.expect_err("refused");
        assert_eq!(error.to_string(), "plugin type=\"twinplane\" failed (add): agent is starting: no node");
        let (_directory, plugin) = calls("echo broken >&2; exit 2");
        let error = plugin.status().await.expect_err("refused");
        assert_eq!(error.to_string(), "plugin type=\"twinplane\" failed (status): broken");
    }

    #[tokio::test]
    async fn an_answer_without_addresses_is_no_network() {
        let (_directory, plugin) = calls("echo '{\"ips\":[]}'");
        assert!(matches!(plugin.add(&attachment()).await, Err(Error::NoAddress)));
        let (_directory, plugin) = calls("echo nonsense");
        assert!(matches!(plugin.add(&attachment()).await, Err(Error::Answer { .. })));
    }
}
