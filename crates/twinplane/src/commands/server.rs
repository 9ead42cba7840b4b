//! Which server of flows a command asks: the one that is named, else a lab's relay or node, else this machine's agent.

use std::path::PathBuf;

use anyhow::Context as _;
use observer::{
    connect::{self, connect},
    tls::{Certificates, Files},
};
use tonic::transport::Channel;

use super::target::Target;

#[derive(Debug, clap::Args)]
pub(crate) struct Server {
    #[command(flatten)]
    target: Target,
    /// A server that speaks Hubble's API, as ADDRESS:PORT, tls://ADDRESS:PORT or unix:///PATH
    #[arg(long, value_name = "ADDRESS", conflicts_with_all = ["socket", "lab", "node"], help_heading = "Server")]
    server: Option<String>,
    /// Authority that has signed the server's certificate
    #[arg(long, value_name = "FILE", help_heading = "Server", requires_all = ["server", "tls_client_cert_file", "tls_client_key_file"])]
    tls_ca_cert_files: Option<PathBuf>,
    /// Certificate to show to the server
    #[arg(long, value_name = "FILE", help_heading = "Server", requires = "tls_ca_cert_files")]
    tls_client_cert_file: Option<PathBuf>,
    /// Its key
    #[arg(long, value_name = "FILE", help_heading = "Server", requires = "tls_ca_cert_files")]
    tls_client_key_file: Option<PathBuf>,
    /// Name in the server's certificate [default: the address without its port]
    #[arg(long, value_name = "NAME", help_heading = "Server", requires = "tls_ca_cert_files")]
    tls_server_name: Option<String>,
}

impl Server {
    /// For what only agents answer.
    ///
    /// # Errors
    /// Another server is named.
    pub(crate) fn agent(&self) -> anyhow::Result<&Target> {
        match &self.server {
            Some(server) => anyhow::bail!("ask {server}: it is asked of agents only\n\nof a relay: --relay"),
            None => Ok(&self.target),
        }
    }

    /// Where it is, as `ADDRESS:PORT` or `unix:///PATH`.
    fn address(&self) -> anyhow::Result<String> {
        Ok(match &self.server {
            Some(address) => address.strip_prefix("tls://").unwrap_or(address).to_owned(),
            None => format!("unix://{}", self.target.observer()?.display()),
        })
    }

    /// A connection, and where to.
    ///
    /// # Errors
    /// Nobody is there, or they do not like each other's certificates.
    pub(crate) async fn connect(&self) -> anyhow::Result<(Channel, String)> {
        let address = self.address()?;
        let certificates = self.files().map(Certificates::load).transpose()?;
        let wants_tls =
            certificates.is_some() || self.server.as_ref().is_some_and(|it| it.starts_with("tls://"));
        let host = address.rsplit_once(':').map_or(address.as_str(), |(host, _)| host);
        let name = self.tls_server_name.as_deref().unwrap_or(host.trim_matches(['[', ']']));
        let server_name = wants_tls.then(|| name.to_owned());
        let target = connect::Target { address: address.clone(), server_name };
        let channel = connect(&target, certificates.as_ref()).await.context(
            "reach a server of flows\n\nis an ebpf agent running here, or an iptables agent with --flows on? ask a lab's \
             relay with --lab NAME, another agent with --socket PATH, another server with --server ADDRESS",
        )?;
        Ok((channel, address))
    }

    fn files(&self) -> Option<Files> {
        Some(Files {
            certificate: self.tls_client_cert_file.clone()?,
            key: self.tls_client_key_file.clone()?,
            authority: self.tls_ca_cert_files.clone()?,
        })
    }
}
