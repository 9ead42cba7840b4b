//! Columns as wide as their widest cell. Never cuts.

#[derive(Debug)]
pub(super) struct Table {
    gap: usize,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// With so many spaces between columns.
    pub(super) fn new(gap: usize) -> Self {
        Self { gap, rows: Vec::new() }
    }

    pub(super) fn add(&mut self, row: Vec<String>) {
        self.rows.push(row);
    }

    /// All rows so far, and forgets them.
    pub(super) fn render(&mut self) -> String {
        let rows = std::mem::take(&mut self.rows);
        let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
        let width = |column: usize| {
            rows.iter()
                .filter_map(|row| row.get(column))
                .map(|cell| cell.chars().count())
                .max()
                .unwrap_or_default()
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let mut text = String::new();
        for row in &rows {
            let (last, cells) = row.split_last().expect("a row has cells");
            for (cell, width) in cells.iter().zip(&widths) {
                text += &format!("{cell:<width$}{:gap$}", "", width = *width, gap = self.gap);
            }
            text += last;
            text.push('\n');
        }
        text
    }
}
