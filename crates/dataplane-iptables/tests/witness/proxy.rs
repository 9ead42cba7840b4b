//! A kube-proxy, or its stand-in, running on the node of the embedded API.

use std::{
    fs::{self, File},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use dataplane_iptables::parse::Saved;
use model::Family;

use crate::{
    api::{Api, NODE},
    compare, ours,
    states::CLUSTER_CIDRS,
};

/// How long a proxy may take to follow a change; a loaded machine is slow.
const PATIENCE: Duration = Duration::from_secs(60);

/// Killed when dropped.
pub(crate) struct Proxy<'a> {
    process: Child,
    api: &'a Api,
    patience: Duration,
    log: tempfile::NamedTempFile,
}

impl<'a> Proxy<'a> {
    pub(crate) fn start(program: &Path, api: &'a Api, environment: &[(&str, &Path)]) -> Self {
        let log = tempfile::NamedTempFile::new().expect("make a file");
        let output = || Stdio::from(File::options().append(true).open(log.path()).expect("open the log"));
        let mut command = api.namespace.command(program.to_str().expect("a path in UTF-8"));
        command
            .arg(format!("--master={}", api.url))
            .arg(format!("--hostname-override={NODE}"))
            .arg(format!("--cluster-cidr={}", CLUSTER_CIDRS.join(",")))
            .args(["--proxy-mode=iptables", "--iptables-sync-period=1s", "--iptables-min-sync-period=0s"])
            .args(["--healthz-bind-address=127.0.0.1:10256", "--metrics-bind-address=127.0.0.1:10249"])
            // The kernel's settings outside the namespace are none of its business.
            .args(["--conntrack-max-per-core=0", "--conntrack-min=0"])
            .args(["--conntrack-tcp-timeout-established=0s", "--conntrack-tcp-timeout-close-wait=0s"])
            .args(["--kube-api-content-type=application/json", "-v=2"])
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(output())
            .stderr(output());
        let process = command.spawn().unwrap_or_else(|error| panic!("{}: {error}", program.display()));
        Self { process, api, patience: PATIENCE, log }
    }

    /// The rules once they are as wanted, or as they are when patience ends.
    pub(crate) fn settled(&self, family: Family, wanted: &Saved) -> Saved {
        let deadline = Instant::now() + self.patience;
        loop {
            let saved = ours::saved(&self.api.namespace, family);
            if compare::rules(&saved, wanted).is_empty() || Instant::now() > deadline {
                return saved;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits for the stand-in to have written its rules, and checks what it was told before.
    pub(crate) fn has_watched(&mut self, log: &Path) {
        let deadline = Instant::now() + PATIENCE;
        let told = loop {
            let told = fs::read_to_string(log).unwrap_or_default();
            if told.contains("written") {
                break told;
            }
            let output = || fs::read_to_string(self.log.path()).unwrap_or_default();
            assert!(Instant::now() < deadline, "the stand-in does not come to an end: {told}{}", output());
            let ended = self.process.try_wait().expect("wait");
            assert!(ended.is_none(), "the stand-in ended: {told}{}", output());
            std::thread::sleep(Duration::from_millis(20));
        };
        self.patience = Duration::from_secs(2);
        let lines =
            |name: &str, what: &str| told.lines().filter(|l| l.starts_with(name) && l.contains(what)).count();
        for name in ["nodes", "services", "endpointslices", "servicecidrs"] {
            assert_eq!(lines(name, "k8s.io/initial-events-end"), 1, "{name}: {told}");
        }
        assert_eq!((lines("nodes", "ADDED"), lines("nodes", NODE)), (1, 1), "{told}");
        assert!(lines("services", "ADDED") >= 2 && lines("endpointslices", "ADDED") >= 1, "{told}");
        assert!(lines("servicecidrs", "ADDED") >= 1, "{told}");
        assert_eq!(lines("", "hidden"), 0, "selectors are kept: {told}");
        assert_eq!(
            lines("event", "415"),
            1,
            "an Event in protobuf is refused, which kube-proxy bears: {told}"
        );
    }
}

impl Drop for Proxy<'_> {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        if std::thread::panicking() {
            eprintln!("the proxy said: {}", fs::read_to_string(self.log.path()).unwrap_or_default());
        }
    }
}

/// A program that watches with kube-proxy's own requests and then writes rules it is given.
pub(crate) struct StandIn {
    pub path: PathBuf,
    pub rules: PathBuf,
    pub log: PathBuf,
    _folder: tempfile::TempDir,
}

/// client-go's reflector asks for streaming lists in these words (both timeouts), kube-proxy adds its selectors.
const SCRIPT: &str = r#"#!/bin/bash
set -eu
for argument; do
  case $argument in
    --master=*) master=${argument#*=} ;;
    --hostname-override=*) node=${argument#*=} ;;
  esac
done
ask='allowWatchBookmarks=true'
how='resourceVersionMatch=NotOlderThan&sendInitialEvents=true&timeout=8m53s&timeoutSeconds=533&watch=true'
watch() {
  exec 3< <(exec curl -sN -H 'Accept: application/json' -H 'User-Agent: kube-proxy' "$master$2")
  curl=$!
  while read -r line <&3; do
    echo "$1 $line" >> "$RULES/log"
    case $line in *k8s.io/initial-events-end*) break ;; esac
  done
  kill "$curl"
  exec 3<&-
}
watch nodes "/api/v1/nodes?$ask&fieldSelector=metadata.name%3D$node&$how"
watch services "/api/v1/services?$ask&fieldSelector=spec.clusterIP%21%3DNone&labelSelector=%21service.kubernetes.io%2Fservice-proxy-name&$how"
watch endpointslices "/apis/discovery.k8s.io/v1/endpointslices?$ask&labelSelector=%21service.kubernetes.io%2Fheadless&$how"
watch servicecidrs "/apis/networking.k8s.io/v1/servicecidrs?$ask&$how"
code=$(curl -s -o /dev/null -w '%{http_code}' -H 'Content-Type: application/vnd.kubernetes.protobuf'   --data-binary k8s "$master/apis/events.k8s.io/v1/namespaces/default/events")
echo "event $code" >> "$RULES/log"
iptables-restore --noflush < "$RULES/V4"
ip6tables-restore --noflush < "$RULES/V6"
echo written >> "$RULES/log"
exec sleep 600
"#;

pub(crate) fn stand_in(rules: &std::collections::BTreeMap<Family, String>) -> StandIn {
    let folder = tempfile::tempdir().expect("make a folder");
    let path = folder.path().join("kube-proxy");
    fs::write(&path, SCRIPT).expect("write the script");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("make it a program");
    for (family, text) in rules {
        fs::write(folder.path().join(format!("{family:?}")), text).expect("write rules");
    }
    StandIn { path, rules: folder.path().into(), log: folder.path().join("log"), _folder: folder }
}
