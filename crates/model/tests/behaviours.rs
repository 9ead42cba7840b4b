//! The table of behaviours names every number once, and only tests that exist.

use std::{collections::BTreeMap, fs, path::Path};

const BEHAVIOURS: u32 = 131;
const PLANES: [&str; 7] = ["model", "oracle", "ebpf", "iptables", "agent", "api", "lab"];

struct Row {
    number: u32,
    planes: Vec<String>,
    tests: Vec<(String, String)>,
    /// The last column as it stands.
    text: String,
}

/// `path::name` in backquotes, wherever it stands.
fn tests(text: &str) -> Vec<(String, String)> {
    let quoted = text.split('`').skip(1).step_by(2);
    let split = |quote: &str| quote.rsplit_once("::").map(|(path, name)| (path.to_owned(), name.to_owned()));
    quoted.filter_map(split).collect()
}

fn row(line: &str) -> Option<Row> {
    let cells: Vec<&str> = line.strip_prefix('|')?.strip_suffix('|')?.split('|').map(str::trim).collect();
    let number = cells.first()?.parse().ok()?;
    let [_, _, _, planes, text] = cells.as_slice() else { panic!("five columns are wanted: {line}") };
    let planes = planes.split_whitespace().map(str::to_owned).collect();
    Some(Row { number, planes, tests: tests(text), text: (*text).to_owned() })
}

#[test]
fn every_behaviour_has_a_row_and_every_named_test_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let table = fs::read_to_string(root.join("docs/service-behaviours.md")).expect("the table");
    let rows: Vec<Row> = table.lines().filter_map(row).collect();
    let numbers: Vec<u32> = rows.iter().map(|row| row.number).collect();
    assert_eq!(numbers, (1..=BEHAVIOURS).collect::<Vec<_>>(), "each number once and in order");

    let mut sources = BTreeMap::new();
    let mut missing = vec![];
    for row in &rows {
        let explained = row.text.contains("does not apply: ") || row.text.contains("open: ");
        assert!(!row.tests.is_empty() || explained, "{}: neither a test nor why there is none", row.number);
        for plane in &row.planes {
            assert!(PLANES.contains(&plane.as_str()), "{}: unknown plane {plane}", row.number);
        }
    }
    for line in table.lines().skip_while(|line| !line.starts_with('|')) {
        let what = line.split('|').nth(1).unwrap_or_default().trim();
        for (path, name) in &tests(line) {
            let source = sources
                .entry(path.clone())
                .or_insert_with(|| fs::read_to_string(root.join(path)).unwrap_or_default());
            if !source.contains(&format!("fn {name}(")) {
                missing.push(format!("{what}: {path}::{name}"));
            }
        }
    }
    assert_eq!(missing, [""; 0], "tests that are not in the tree");
}
