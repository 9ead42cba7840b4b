//! `twinplane identity list|get`: which number stands for which labels, and whose an address is.

use std::{net::IpAddr, process::ExitCode};

use cluster::IdentityView;
use model::Reserved;

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
    /// List identities with their labels
    List {
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        output: Output,
    },
    /// One identity, by its number or reserved name, or that of an address as the node's kernel has it
    Get {
        /// As 27793, host or 10.20.0.3
        #[arg(value_name = "ID|NAME|ADDRESS")]
        which: String,
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        output: Output,
    },
}

/// What is asked for.
#[derive(Debug, PartialEq, Eq)]
enum Which {
    Number(u32),
    Address(IpAddr),
}

/// Exit 1 where there is no such identity.
///
/// # Errors
/// The agent cannot be asked, or what is asked for is neither number, name nor address.
pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    match args.command {
        Command::List { target, output } => {
            let identities = target.ask(async |client| client.identities().await)?;
            output.write(&identities, |identities| table(identities))?;
        }
        Command::Get { which, target, output } => {
            let wanted = read(&which)?;
            let (number, identities) = target.ask(async |client| {
                let number = match wanted {
                    Which::Number(number) => Some(number),
                    Which::Address(address) => client.identity_of(address).await?.map(|id| id.get()),
                };
                Ok((number, client.identities().await?))
            })?;
            let Some(found) = identities.into_iter().find(|view| Some(view.id.get()) == number) else {
                match number {
                    Some(number) => eprintln!("identity {number}: not found"),
                    None => eprintln!("{which}: this node's kernel has no identity for it"),
                }
                return Ok(ExitCode::FAILURE);
            };
            output.write(&found, |found| table(std::slice::from_ref(found)))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn read(text: &str) -> anyhow::Result<Which> {
    if let Some(reserved) = Reserved::ALL.into_iter().find(|reserved| reserved.name() == text) {
        return Ok(Which::Number(reserved.id().get()));
    }
    let number = text.parse().map(Which::Number);
    let address = || text.parse().map(Which::Address);
    number.or_else(|_| address()).map_err(|_| {
        anyhow::anyhow!(
            "invalid identity {text:?}: want a number, a reserved name as \"host\", or an address"
        )
    })
}

fn table(identities: &[IdentityView]) -> String {
    let cells =
        |view: &IdentityView| vec![view.id.to_string(), view.labels.join("\n"), view.endpoints.to_string()];
    columns(&["ID", "LABELS", "ENDPOINTS"], identities.iter().map(cells))
}

#[cfg(test)]
mod tests {
    use model::IdentityId;

    use super::*;

    #[test]
    fn an_identity_is_named_by_number_name_or_address() {
        assert_eq!(read("27793").expect("number"), Which::Number(27_793));
        assert_eq!(read("kube-apiserver").expect("name"), Which::Number(7));
        assert_eq!(read("fd20::3").expect("address"), Which::Address("fd20::3".parse().expect("address")));
        let error = read("nginx").expect_err("a pod").to_string();
        assert!(error.starts_with("invalid identity \"nginx\""), "{error}");
    }

    #[test]
    fn each_label_has_a_line_as_in_ciliums_table() {
        let view = |id, labels: &[&str], endpoints| IdentityView {
            id: IdentityId::from_raw(id),
            labels: labels.iter().map(|label| (*label).to_owned()).collect(),
            endpoints,
        };
        let text = table(&[view(1, &["reserved:host"], 0), view(27_793, &["k8s:app=web", "k8s:b"], 2)]);
        let expected = "\
ID      LABELS          ENDPOINTS
1       reserved:host   0
27793   k8s:app=web     2
        k8s:b
";
        assert_eq!(text, expected);
    }
}
