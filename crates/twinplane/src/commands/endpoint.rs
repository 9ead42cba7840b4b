//! `twinplane endpoint list|get`: the pods of the cluster that have an interface, with identity, address and node.

use std::{net::IpAddr, process::ExitCode};

use cluster::EndpointView;

use super::{
    output::{Output, columns},
    target::Target,
};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List endpoints as a node knows them
    List {
        /// Those of the node that is asked only
        #[arg(long)]
        local: bool,
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        output: Output,
    },
    /// One endpoint, with the labels of its identity
    Get {
        /// As namespace/pod, pod (in namespace "default") or 10.20.0.3
        #[arg(value_name = "POD|ADDRESS")]
        which: String,
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        output: Output,
    },
}

/// Exit 1 where there is no such endpoint.
///
/// # Errors
/// The agent cannot be asked.
pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    match args.command {
        Command::List { local, target, output } => {
            let endpoints = target.ask(async |client| {
                let mut endpoints = client.cluster_endpoints().await?;
                if local {
                    let node = client.status().await?.node;
                    endpoints.retain(|endpoint| endpoint.node == node);
                }
                Ok(endpoints)
            })?;
            output.write(&endpoints, |endpoints| list(endpoints))?;
        }
        Command::Get { which, target, output } => {
            let endpoints = target.ask(async |client| client.cluster_endpoints().await)?;
            let Some(found) = endpoints.into_iter().find(|endpoint| is(endpoint, &which)) else {
                eprintln!("endpoint {which}: not found");
                return Ok(ExitCode::FAILURE);
            };
            output.write(&found, one)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn is(endpoint: &EndpointView, which: &str) -> bool {
    if let Ok(address) = which.parse::<IpAddr>() {
        return endpoint.addresses.contains(&address);
    }
    let (namespace, name) = which.split_once('/').unwrap_or(("default", which));
    (endpoint.pod.namespace.as_str(), endpoint.pod.name.as_str()) == (namespace, name)
}

fn addresses(endpoint: &EndpointView) -> impl Iterator<Item = String> {
    endpoint.addresses.iter().map(ToString::to_string)
}

fn list(endpoints: &[EndpointView]) -> String {
    let cells = |endpoint: &EndpointView| {
        let addresses = addresses(endpoint).collect::<Vec<_>>().join(",");
        vec![endpoint.pod.to_string(), endpoint.identity.to_string(), addresses, endpoint.node.clone()]
    };
    columns(&["POD", "IDENTITY", "IP", "NODE"], endpoints.iter().map(cells))
}

fn one(endpoint: &EndpointView) -> String {
    let addresses: Vec<_> = addresses(endpoint).collect();
    let row = vec![
        endpoint.pod.to_string(),
        endpoint.identity.to_string(),
        addresses.join("\n"),
        endpoint.node.clone(),
        endpoint.labels.join("\n"),
    ];
    columns(&["POD", "IDENTITY", "IP", "NODE", "LABELS"], [row])
}

#[cfg(test)]
mod tests {
    use model::{IdentityId, PodName};

    use super::*;

    fn endpoint() -> EndpointView {
        EndpointView {
            pod: PodName { namespace: "default".into(), name: "web".into() },
            node: "node-a".into(),
            identity: IdentityId::from_raw(27_793),
            labels: vec!["k8s:app=web".into(), "k8s:b".into()],
            addresses: vec!["10.20.0.3".parse().expect("address"), "fd20::3".parse().expect("address")],
        }
    }

    #[test]
    fn an_endpoint_is_named_by_pod_or_by_any_of_its_addresses() {
        for which in ["web", "default/web", "10.20.0.3", "fd20:0::3"] {
            assert!(is(&endpoint(), which), "{which}");
        }
        for which in ["we", "other/web", "10.20.0.30", ""] {
            assert!(!is(&endpoint(), which), "{which}");
        }
    }

    #[test]
    fn tables_have_the_columns_that_kubectl_shows() {
        let text = list(&[endpoint()]);
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[0], ["POD", "IDENTITY", "IP", "NODE"]);
        assert_eq!(lines[1], ["default/web", "27793", "10.20.0.3,fd20::3", "node-a"]);
        assert!(one(&endpoint()).contains("k8s:app=web\n"), "{}", one(&endpoint()));
    }
}
