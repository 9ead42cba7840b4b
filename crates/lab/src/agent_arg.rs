//! What a user gives the agents of a lab besides what the lab gives them. Never knows what an agent makes of it.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The lab's own to give: others would not be reached, not be supervised or not fit the lab's network.
const TAKEN: [&str; 16] = [
    "--node",
    "--dataplane",
    "--api-server",
    "--kubeconfig",
    "--socket",
    "--bpffs",
    "--cgroup",
    "--uplink",
    "--cluster-cidr",
    "--routing",
    "--healthz-bind",
    "--observer-socket",
    "--observer-bind",
    "--observer-tls-cert",
    "--observer-tls-key",
    "--observer-tls-client-ca",
];

/// One argument of `twinplane agent`, as `--xdp=auto`; a flag and its value may be two.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentArg(String);

/// An argument that the lab gives its agents itself.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a lab gives its agents {0} itself")]
pub struct Taken(&'static str);

impl AgentArg {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for AgentArg {
    type Err = Taken;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let name = text.split_once('=').map_or(text, |(name, _)| name);
        match TAKEN.iter().find(|taken| **taken == name) {
            Some(taken) => Err(Taken(taken)),
            None => Ok(Self(text.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_lab_gives_itself_is_refused_and_the_rest_passed_on() {
        for text in
            ["--xdp=auto", "--nodeport-addresses", "primary", "--node-port", "--maglev-table-size=251"]
        {
            assert_eq!(text.parse::<AgentArg>().expect(text).as_str(), text);
        }
        for (text, name) in [("--node=x", "--node"), ("--socket", "--socket")] {
            assert_eq!(text.parse::<AgentArg>(), Err(Taken(name)));
        }
        let refusal = "--uplink=eth1".parse::<AgentArg>().expect_err("the lab's own");
        assert_eq!(refusal.to_string(), "a lab gives its agents --uplink itself");
    }
}
