//! The CNI plugin (spec 1.1): a container runtime executes it to attach and detach pods.
//!
//! Only translates: the environment and the configuration on stdin into one request to the node's agent, and
//! the answer into the spec's JSON. Never touches a kernel, keeps no state, and never waits on its own.

mod call;
mod error;
mod result;

use std::{io::Read as _, process::ExitCode};

use agent::{
    client::Client,
    wire::{AddRequest, CheckRequest, CollectRequest},
};
use serde_json::{Value, json};

use crate::{
    call::{Call, Environment},
    error::Error,
};

/// Versions of the spec that results are written in, oldest first.
const SUPPORTED: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];
const NEWEST: &str = "1.1.0";

/// Acts as the CNI plugin when the runtime called this process as one (`CNI_COMMAND` is set).
pub fn run_if_called_as_plugin() -> Option<ExitCode> {
    let environment = Environment::from_process()?;
    let mut stdin = String::new();
    let (version, outcome) = match std::io::stdin().read_to_string(&mut stdin) {
        Ok(_) => {
            let version = call::version_of(&stdin);
            (version, run(&environment, &stdin))
        }
        Err(error) => (NEWEST.to_owned(), Err(Error::io(format!("read the configuration: {error}")))),
    };
    Some(match outcome {
        Ok(Some(answer)) => {
            println!("{answer}");
            ExitCode::SUCCESS
        }
        Ok(None) => ExitCode::SUCCESS,
        Err(error) => {
            println!("{}", error.to_json(&version));
            ExitCode::FAILURE
        }
    })
}

/// What the runtime gets on stdout, where it gets anything.
fn run(environment: &Environment, stdin: &str) -> Result<Option<Value>, Error> {
    let call = call::read(environment, stdin)?;
    if matches!(call, Call::Version) {
        let version = call::version_of(stdin);
        return Ok(Some(json!({"cniVersion": version, "supportedVersions": SUPPORTED})));
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Error::io(format!("start the runtime: {error}")))?;
    runtime.block_on(ask(call))
}

async fn ask(call: Call) -> Result<Option<Value>, Error> {
    match call {
        Call::Version => Ok(None),
        Call::Add { config, attachment, netns, pod } => {
            let request = AddRequest { attachment, netns: netns.clone(), pod, mtu: config.mtu };
            let added = Client::new(&config.socket).cni_add(&request).await?;
            Ok(Some(result::of_add(&config.cni_version, &request, &added)))
        }
        Call::Del { config, attachment } => {
            Client::new(&config.socket).cni_del(&attachment).await?;
            Ok(None)
        }
        Call::Check { config, attachment } => {
            let addresses = result::addresses_of(config.prev_result.as_ref())?;
            let request = CheckRequest { attachment, addresses };
            Client::new(&config.socket).cni_check(&request).await?;
            Ok(None)
        }
        Call::Gc { config } => {
            let request = CollectRequest { valid: config.valid_attachments };
            Client::new(&config.socket).cni_gc(&request).await?;
            Ok(None)
        }
        Call::Status { config } => {
            let ready = Client::new(&config.socket).cni_status().await;
            ready.map(|()| None).map_err(Error::not_available)
        }
    }
}
