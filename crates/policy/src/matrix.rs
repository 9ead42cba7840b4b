//! Who reaches whom, as a table and as a picture. Pure.

use std::fmt::{self, Write};

use model::{
    Family, PodName,
    policy::{L4, Verdict},
};
use serde::Serialize;

use crate::{
    offline::Offline,
    world::{Connection, World},
};

/// Rows send, columns receive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Matrix {
    pub l4: L4,
    pub pods: Vec<PodName>,
    /// `None`: a pod and itself, or no common address family.
    pub cells: Vec<Vec<Option<Verdict>>>,
}

/// What every pod gets through to every other; allowed where any address family is.
pub fn matrix(world: &World, l4: L4) -> Matrix {
    let offline = Offline::of(world);
    let pods: Vec<PodName> = world.subjects().map(|(name, _)| name.clone()).collect();
    let cell = |from: &PodName, to: &PodName| {
        let families = Family::ALL.into_iter().filter(|_| from != to);
        let verdicts = families.filter_map(|family| {
            let source = world.pod_party(from, family).ok()?;
            let destination = world.pod_party(to, family).ok()?;
            Some(offline.verdict(&Connection { source, destination, l4 }))
        });
        verdicts.min()
    };
    let cells = pods.iter().map(|from| pods.iter().map(|to| cell(from, to)).collect()).collect();
    Matrix { l4, pods, cells }
}

impl fmt::Display for Matrix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.pods.iter().map(|pod| pod.to_string().len()).max().unwrap_or_default();
        writeln!(f, "{}", self.l4)?;
        for (index, (pod, row)) in self.pods.iter().zip(&self.cells).enumerate() {
            write!(f, "{index:>3} {pod:<width$} ", pod = pod.to_string())?;
            row.iter().try_for_each(|cell| f.write_str(sign(*cell)))?;
            writeln!(f)?;
        }
        Ok(())
    }
}

const fn sign(cell: Option<Verdict>) -> &'static str {
    match cell {
        Some(Verdict::Allow) => ".",
        Some(Verdict::Deny) => "X",
        None => "#",
    }
}

/// Side of a cell in the picture.
const CELL: usize = 18;
/// Room for names.
const MARGIN: usize = 220;

impl Matrix {
    /// A picture that stands for itself; each cell says in a title what it is.
    pub fn to_svg(&self) -> String {
        let side = MARGIN + CELL * self.pods.len() + 10;
        let mut svg = format!(
            r#"<svg xmlns="http://www.w3.org/2000/svg" width="{side}" height="{side}" font-family="sans-serif" font-size="11">"#
        );
        for (index, pod) in self.pods.iter().enumerate() {
            let (name, at) = (escaped(&pod.to_string()), MARGIN + CELL * index);
            let (middle, end) = (at + CELL - 5, MARGIN - 6);
            // Writing to a string does not fail.
            _ = write!(svg, r#"<text x="{end}" y="{middle}" text-anchor="end">{name}</text>"#);
            _ = write!(svg, r#"<text transform="translate({middle},{end}) rotate(-90)">{name}</text>"#);
        }
        for (y, (from, row)) in self.pods.iter().zip(&self.cells).enumerate() {
            for (x, (to, cell)) in self.pods.iter().zip(row).enumerate() {
                let (fill, said) = match cell {
                    Some(Verdict::Allow) => ("#2e7d32", "allowed"),
                    Some(Verdict::Deny) => ("#c62828", "denied"),
                    None => ("#e0e0e0", "not asked"),
                };
                let title = escaped(&format!("{from} -> {to} {}: {said}", self.l4));
                let (x, y, side) = (MARGIN + CELL * x, MARGIN + CELL * y, CELL - 1);
                _ = write!(
                    svg,
                    r#"<rect x="{x}" y="{y}" width="{side}" height="{side}" fill="{fill}"><title>{title}</title></rect>"#
                );
            }
        }
        svg + "</svg>"
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
