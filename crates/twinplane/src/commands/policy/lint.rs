//! `twinplane policy lint`: policies that probably do not do what was meant.

use std::{path::PathBuf, process::ExitCode};

use policy::lint::{Finding, lint};

use super::{
    super::{
        output::{Output, columns},
        target::Target,
    },
    objects::{Objects, read_files, tell},
};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Policies that are not applied yet (a file, a folder or "-")
    #[arg(short, long = "filename", value_name = "PATH")]
    files: Vec<PathBuf>,
    #[command(flatten)]
    objects: Objects,
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    output: Output,
}

/// Exit 1 where there is anything to say.
pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let mut world = args.objects.read(&args.target)?.world;
    let troubles = read_files(&mut world, &args.files)?;
    tell(&troubles);
    let findings = lint(&world);
    args.output.write(&findings, |findings| table(findings))?;
    Ok(if findings.is_empty() && troubles.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn table(findings: &[Finding]) -> String {
    let cells = |finding: &Finding| {
        let kind = format!("{:?}", finding.lint);
        vec![finding.policy.to_string(), kind, finding.field.clone(), finding.message.clone()]
    };
    match findings {
        [] => String::new(),
        all => columns(&["POLICY", "LINT", "FIELD", "WHAT"], all.iter().map(cells)),
    }
}
