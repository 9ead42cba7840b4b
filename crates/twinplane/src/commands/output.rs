//! Data on stdout, as a table or for a machine. A reader that has read enough is no error.

use std::io::{self, Write};

use anyhow::Context as _;
use comfy_table::{Table, presets::NOTHING};
use serde::Serialize;

/// How data is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    #[default]
    Table,
    Json,
    Yaml,
}

#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct Output {
    /// How the answer is written
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: Format,
}

impl Output {
    /// Writes `data`, as `table` says where a table is asked for.
    pub(crate) fn write<T: Serialize>(
        self,
        data: &T,
        table: impl FnOnce(&T) -> String,
    ) -> anyhow::Result<()> {
        let text = match self.output {
            Format::Table => table(data),
            Format::Json => serde_json::to_string_pretty(data).context("write JSON")? + "\n",
            Format::Yaml => serde_saphyr::to_string(data).context("write YAML")?,
        };
        write_all(&text).map(drop)
    }
}

/// Whether anyone still reads.
pub(crate) fn write_all(text: &str) -> anyhow::Result<bool> {
    print(&mut io::stdout().lock(), text).context("write to stdout")
}

fn print(out: &mut impl Write, text: &str) -> io::Result<bool> {
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        written => written.map(|()| true),
    }
}

/// Rows under upper-case titles, without lines: easy on the eye and on `awk`.
pub(crate) fn columns(titles: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(NOTHING).set_header(titles.to_vec()).add_rows(rows);
    for column in table.column_iter_mut() {
        column.set_padding((0, 3));
    }
    table.lines().map(|line| line.trim_end().to_owned() + "\n").collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Closed;

    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_closed_pipe_is_success() {
        assert!(!print(&mut Closed, "text").expect("no error"));
    }

    #[test]
    fn columns_are_aligned_and_end_without_blanks() {
        let rows = [vec!["1".into(), "long value".into()], vec!["22".into(), "x\ny".into()]];
        assert_eq!(columns(&["ID", "VALUE"], rows), "ID   VALUE\n1    long value\n22   x\n     y\n");
    }
}
