//! Options of the export of flows. Pure.

use std::{path::PathBuf, time::Duration};

use anyhow::Context as _;
use flow::{filter::Filters, json, mask::Mask, proto::flow::FlowFilter};
use observer::export::Rotation;

use super::values::Period;
use crate::export::Export;

/// Flows as lines of JSON in a file.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct ExportArgs {
    /// File that flows are written to, as lines of JSON; how far it is is kept beside it
    #[arg(long, value_name = "PATH")]
    export_file: Option<PathBuf>,
    /// Size at which the file is put aside, as 512K, 10M or 1G
    #[arg(long, value_name = "SIZE", default_value = "10M", requires = "export_file")]
    export_max_size: Size,
    /// Files that are kept beside the current one
    #[arg(long, value_name = "FILES", default_value_t = 5, requires = "export_file")]
    export_max_files: u32,
    /// Age at which the file is put aside; 0s for none
    #[arg(long, value_name = "TIME", default_value = "0s", requires = "export_file")]
    export_max_age: Period,
    /// Only flows that match one of these filters, as JSON of flow.FlowFilter; may be given more than once
    #[arg(long, value_name = "JSON", requires = "export_file")]
    export_allowlist: Vec<String>,
    /// No flows that match one of these filters
    #[arg(long, value_name = "JSON", requires = "export_file")]
    export_denylist: Vec<String>,
    /// Only these fields of a flow, as source.pod_name [default: all]
    #[arg(long, value_name = "PATH", value_delimiter = ',', requires = "export_file")]
    export_field_mask: Vec<String>,
}

impl ExportArgs {
    /// `None`: nothing is to be exported.
    ///
    /// # Errors
    /// A filter or a field does not exist.
    pub(super) fn export(self) -> anyhow::Result<Option<Export>> {
        let Some(path) = self.export_file else { return Ok(None) };
        let filters = |flag: &str, texts: &[String]| -> anyhow::Result<Vec<FlowFilter>> {
            let lists: Result<Vec<Vec<_>>, _> = texts.iter().map(|text| json::parse_all(text)).collect();
            Ok(lists.with_context(|| format!("read --{flag}"))?.concat())
        };
        let allow = filters("export-allowlist", &self.export_allowlist)?;
        let deny = filters("export-denylist", &self.export_denylist)?;
        let age = self.export_max_age.0;
        Ok(Some(Export {
            path,
            rotation: Rotation {
                bytes: self.export_max_size.0,
                files: self.export_max_files,
                age: (age > Duration::ZERO).then_some(age),
            },
            filters: Filters::new(&allow, &deny)
                .context("read --export-allowlist and --export-denylist")?
                .into(),
            mask: Mask::new(&self.export_field_mask).context("read --export-field-mask")?,
        }))
    }
}

/// A number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Size(u64);

impl std::str::FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
        let scale = match unit {
            "" => Some(1),
            "K" => Some(1 << 10),
            "M" => Some(1 << 20),
            "G" => Some(1_u64 << 30),
            _ => None,
        };
        let bytes =
            number.parse::<u64>().ok().zip(scale).and_then(|(number, scale)| number.checked_mul(scale));
        let bytes = bytes.filter(|bytes| *bytes > 0);
        bytes.map(Self).ok_or_else(|| format!("invalid size {text:?}: want one as 512K, 10M or 1G"))
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        export: ExportArgs,
    }

    fn parse(args: &[&str]) -> Result<Option<Export>, String> {
        let cli = Cli::try_parse_from(["agent"].iter().chain(args)).map_err(|error| error.to_string())?;
        cli.export.export().map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn sizes() {
        let bytes = |text: &str| text.parse::<Size>().map(|size| size.0).ok();
        assert_eq!(["512", "1K", "10M", "2G"].map(bytes), [512, 1 << 10, 10 << 20, 2 << 30].map(Some));
        assert_eq!(["", "0", "M", "1T", "-1", "1.5M", "99999999999G"].map(bytes), [None; 7]);
    }

    #[test]
    fn nothing_is_exported_unless_a_file_is_named() {
        assert!(parse(&[]).expect("nothing").is_none());
        let alone = parse(&["--export-max-files", "3"]).expect_err("no file");
        assert!(alone.contains("--export-file"), "{alone}");
        let export = parse(&["--export-file", "/tmp/x", "--export-max-age=1h", "--export-max-size=1K"]);
        let export = export.expect("an export").expect("an export");
        assert_eq!((export.rotation.bytes, export.rotation.files), (1024, 5));
        assert_eq!(export.rotation.age, Some(Duration::from_secs(3600)));
    }

    #[test]
    fn what_does_not_exist_is_named() {
        let refused =
            |args: &[&str]| parse(&[&["--export-file", "/tmp/x"], args].concat()).expect_err("refused");
        let refused = |flag: &str, value: &str| refused(&[flag, value]);
        let filter = refused("--export-allowlist", r#"{"sorce_pod":["a"]}"#);
        assert!(filter.contains("--export-allowlist") && filter.contains("sorce_pod"), "{filter}");
        let value = refused("--export-denylist", r#"{"source_ip":["nonsense"]}"#);
        assert!(value.contains("blacklist[0].source_ip"), "{value}");
        let field = refused("--export-field-mask", "source.pod");
        assert!(field.contains("--export-field-mask") && field.contains("source.pod"), "{field}");
    }
}
