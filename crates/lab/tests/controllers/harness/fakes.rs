//! What stands in for the edge and for the CNI plugin.

use std::{
    collections::BTreeMap,
    fs,
    net::IpAddr,
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    sync::{Arc, Mutex},
};

use lab::{
    controllers::{LoadBalancerError, LoadBalancers},
    edge::ForwardingRuleSpec,
};

/// How the plugin of a test behaves.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Cni {
    Works,
    RefusesTwice,
}

/// Gives addresses as the edge does, and remembers what it was told.
#[derive(Clone, Debug, Default)]
pub(crate) struct Balancers {
    told: Arc<Mutex<BTreeMap<String, ForwardingRuleSpec>>>,
    refusal: Arc<Mutex<Option<String>>>,
}

impl Balancers {
    pub(crate) fn spec(&self, uid: &str) -> Option<ForwardingRuleSpec> {
        self.told.lock().expect("lock").get(uid).cloned()
    }

    pub(crate) fn refuse(&self, why: &str) {
        *self.refusal.lock().expect("lock") = Some(why.to_owned());
    }

    pub(crate) fn accept(&self) {
        *self.refusal.lock().expect("lock") = None;
    }
}

impl LoadBalancers for Balancers {
    async fn ensure(&self, spec: ForwardingRuleSpec) -> Result<Vec<IpAddr>, LoadBalancerError> {
        if let Some(refusal) = &*self.refusal.lock().expect("lock") {
            return Err(refusal.clone().into());
        }
        let mut told = self.told.lock().expect("lock");
        let requested = spec.requested_ips.first().copied();
        let address = requested.unwrap_or_else(|| IpAddr::from([203, 0, 113, 1]));
        told.insert(spec.uid.clone(), spec);
        Ok(vec![address])
    }

    async fn remove(&self, uid: &str) -> Result<(), LoadBalancerError> {
        self.told.lock().expect("lock").remove(uid);
        Ok(())
    }
}

/// A plugin that gives each pod the next address, on its loopback, and notes each call.
pub(super) fn plugin(directory: &std::path::Path, cni: Cni) -> PathBuf {
    let refusals = match cni {
        Cni::Works => 0,
        Cni::RefusesTwice => 2,
    };
    let path = directory.join("plugin");
    let here = directory.display();
    let script = format!(
        r#"#!/bin/sh
exec 9> {here}/cni.lock
flock 9
cat > /dev/null
echo "$CNI_COMMAND" >> {here}/cni.log
[ "$CNI_COMMAND" = ADD ] || exit 0
calls=$(grep -c '^ADD$' {here}/cni.log)
if [ "$calls" -le {refusals} ]; then
    echo '{{"cniVersion":"1.1.0","code":11,"msg":"out of addresses"}}'
    exit 1
fi
address=10.20.0.$((calls + 1))
ip -n "$(basename "$CNI_NETNS")" addr add $address/32 dev lo || exit 1
echo '{{"cniVersion":"1.1.0","ips":[{{"address":"'$address'/24"}}]}}'
"#
    );
    fs::write(&path, script).expect("write");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("mode");
    path
}
