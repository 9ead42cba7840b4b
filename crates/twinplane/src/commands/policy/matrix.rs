//! `twinplane policy matrix`: who reaches whom, as a table or a picture.

use std::process::ExitCode;

use anyhow::Context as _;
use policy::matrix::matrix;

use super::{
    super::{output::write_all, target::Target},
    ends::PortArg,
    objects::Objects,
};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// As 80, 53/UDP, or "icmp" for what has no port
    #[arg(value_name = "PORT[/PROTO]", default_value = "80/TCP")]
    port: PortArg,
    /// How the answer is written; in the table rows send, columns receive: "." allowed, "X" denied, "#" not asked
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    #[command(flatten)]
    objects: Objects,
    #[command(flatten)]
    target: Target,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    #[default]
    Table,
    Json,
    Yaml,
    Svg,
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let matrix = matrix(&args.objects.read(&args.target)?.world, args.port.0);
    write_all(&match args.output {
        Format::Table => matrix.to_string(),
        Format::Svg => matrix.to_svg() + "\n",
        Format::Json => serde_json::to_string_pretty(&matrix).context("write JSON")? + "\n",
        Format::Yaml => serde_saphyr::to_string(&matrix).context("write YAML")?,
    })?;
    Ok(ExitCode::SUCCESS)
}
