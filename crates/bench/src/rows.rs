//! Rows of the table: a value, what it is compared with, and the target it has to meet. Measures nothing.

use std::io::{self, Write as _};

use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

/// One line of the table.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) id: String,
    /// What was measured, in a few words.
    #[serde(skip)]
    pub(crate) what: String,
    pub(crate) unit: &'static str,
    pub(crate) value: f64,
    pub(crate) control: f64,
    /// What the control is, in a few words.
    #[serde(skip)]
    pub(crate) controlled_by: &'static str,
    pub(crate) ratio: f64,
}

/// What a value has to reach.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Target {
    Under(f64),
    Over(f64),
}

/// The table of one run.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) rows: Vec<Row>,
}

/// The numbers to beat, by row.
const TARGETS: [(&str, Target); 22] = [
    ("pod-clusterip-est", Target::Under(75.0)),
    ("pod-clusterip-new", Target::Under(800.0)),
    ("deliver-policy-est", Target::Under(65.0)),
    ("deliver-policy-new", Target::Under(500.0)),
    ("lb-snat-tc-est", Target::Under(80.0)),
    ("lb-snat-xdp-est", Target::Under(80.0)),
    ("policy-drop", Target::Under(200.0)),
    ("no-service-tc", Target::Under(25.0)),
    ("no-service-xdp", Target::Under(15.0)),
    ("conn-share-clusterip", Target::Over(0.97)),
    ("conn-share-vip", Target::Over(0.97)),
    ("conn-share-observed", Target::Over(0.97)),
    ("flow-loss-50k", Target::Under(1.0)),
    ("program-10k-ebpf", Target::Under(1_000.0)),
    ("program-10k-iptables", Target::Under(5_000.0)),
    ("update-10k-ebpf", Target::Under(5.0)),
    ("update-10k-iptables", Target::Under(400.0)),
    ("agent-rss-10k", Target::Under(80.0)),
    ("agent-rss-flows", Target::Under(80.0)),
    ("map-memory-2pods", Target::Under(40.0)),
    // Flat: what a repeated measurement of the same thing scatters by.
    ("growth-10-10k", Target::Under(1.1)),
    ("growth-policy-10-16k", Target::Under(1.1)),
];

impl Target {
    pub(crate) fn of(id: &str) -> Option<Self> {
        TARGETS.iter().find(|(name, _)| *name == id).map(|(_, target)| *target)
    }

    pub(crate) fn met(self, value: f64) -> bool {
        match self {
            Self::Under(limit) => value < limit,
            Self::Over(limit) => value >= limit,
        }
    }

    pub(crate) fn limit(self) -> f64 {
        let (Self::Under(limit) | Self::Over(limit)) = self;
        limit
    }

    pub(crate) fn words(self) -> String {
        match self {
            Self::Under(limit) => format!("< {}", number(limit)),
            Self::Over(limit) => format!("≥ {}", number(limit)),
        }
    }
}

impl Report {
    /// Adds a row, and tells it on stderr.
    pub(crate) fn add(
        &mut self,
        (id, what): (impl Into<String>, impl Into<String>),
        (value, unit): (f64, &'static str),
        (control, controlled_by): (f64, &'static str),
    ) {
        let row = Row {
            id: id.into(),
            what: what.into(),
            unit,
            value,
            control,
            controlled_by,
            ratio: value / control,
        };
        eprintln!("bench:           {:<34} {:>10} {unit}", row.id, number(value));
        self.rows.push(row);
    }

    pub(crate) fn json(&self) -> serde_json::Result<String> {
        Ok(serde_json::to_string_pretty(&self.rows)? + "\n")
    }

    /// Rows with a target first, in the order of the targets; then the others as measured.
    pub(crate) fn sorted(&self) -> Vec<&Row> {
        let place = |row: &&Row| TARGETS.iter().position(|(id, _)| *id == row.id).unwrap_or(TARGETS.len());
        let mut rows: Vec<&Row> = self.rows.iter().collect();
        rows.sort_by_key(place);
        rows
    }

    pub(crate) fn table(&self) -> String {
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        table.set_header(["ID", "WHAT", "VALUE", "UNIT", "CONTROL", "OF", "RATIO", "TARGET", "VERDICT"]);
        for row in self.sorted() {
            let target = Target::of(&row.id);
            table.add_row([
                row.id.clone(),
                row.what.clone(),
                number(row.value),
                row.unit.to_owned(),
                number(row.control),
                row.controlled_by.to_owned(),
                format!("{:.2}", row.ratio),
                target.map(Target::words).unwrap_or_default(),
                target.map(|t| verdict(t.met(row.value)).to_owned()).unwrap_or_default(),
            ]);
        }
        for column in table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        for column in [2, 4, 6] {
            if let Some(column) = table.column_mut(column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        table.to_string().lines().map(|line| format!("{}\n", line.trim_end())).collect()
    }
}

pub(crate) fn verdict(met: bool) -> &'static str {
    if met { "met" } else { "missed" }
}

/// Three significant digits, at most.
pub(crate) fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// The middle of what was measured; between the two middle ones of an even number.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        count if count % 2 == 1 => values[middle],
        _ => f64::midpoint(values[middle - 1], values[middle]),
    }
}

/// Prints data; a reader that has enough is no error.
pub(crate) fn print(text: &str) -> anyhow::Result<()> {
    match io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => Ok(result?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts_follow_the_direction_of_the_target() {
        let mut report = Report::default();
        report.add(("other", "an extra row"), (1.0, "ns"), (2.0, "x"));
        report.add(("conn-share-vip", "connections"), (0.96, "share"), (1.0, "plain veth"));
        report.add(("pod-clusterip-est", "packet"), (74.0, "ns"), (37.0, "empty program"));
        let table = report.table();
        let lines: Vec<&str> = table.lines().collect();
        assert!(lines[1].starts_with("pod-clusterip-est") && lines[1].ends_with(" met"), "{table}");
        assert!(lines[1].contains("2.00"), "{table}");
        assert!(lines[2].starts_with("conn-share-vip") && lines[2].ends_with("missed"), "{table}");
        assert!(lines[3].starts_with("other"), "{table}");
    }

    #[test]
    fn results_have_the_agreed_fields_and_no_others() {
        let mut report = Report::default();
        report.add(("map-memory-2pods", "maps"), (30.0, "MB"), (15.0, "no pods"));
        let rows: serde_json::Value = serde_json::from_str(&report.json().expect("json")).expect("json");
        assert_eq!(
            rows,
            serde_json::json!([{"id": "map-memory-2pods", "unit": "MB", "value": 30.0, "control": 15.0, "ratio": 2.0}])
        );
    }

    #[test]
    fn medians() {
        assert_eq!((median(vec![3.0, 1.0, 2.0]), median(vec![4.0, 1.0, 2.0, 3.0])), (2.0, 2.5));
    }
}
