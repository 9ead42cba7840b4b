//! The failover as a drawing: each plane's requests over the seconds since the scale-down, from the captured rows.
//!
//! Positions are percentages, so that the drawing fits any width while its text keeps its size.

use model::Plane;
use serde::Serialize;

use crate::{
    attempt::Attempt,
    report::{Layer, LayerId},
};

/// Height of one plane's lane, and where its parts are, in CSS pixels.
const LANE: u32 = 96;
const LABEL: u32 = 18;
const BASE: u32 = 84;
const AXIS: u32 = 26;
/// What fits a phone's width without touching.
const MOST_TICKS: u64 = 6;

#[derive(Debug, Serialize)]
pub(super) struct Chart {
    caption: String,
    /// The drawing in words, for those who do not see it.
    summary: String,
    height: u32,
    axis_y: u32,
    ticks: Vec<Tick>,
    lanes: Vec<Lane>,
}

#[derive(Debug, Serialize)]
struct Tick {
    x: f64,
    label: String,
    anchor: &'static str,
}

#[derive(Debug, Serialize)]
struct Lane {
    plane: Plane,
    label: String,
    label_y: u32,
    base_y: u32,
    requests: Vec<Request>,
    removed: Option<Removed>,
}

#[derive(Debug, Serialize)]
struct Request {
    x: f64,
    width: f64,
    ok: bool,
    words: String,
}

#[derive(Debug, Serialize)]
struct Removed {
    x: f64,
    label: String,
    anchor: &'static str,
    /// Moves the label off the line.
    shift: i32,
}

/// What one plane's rows and facts say.
struct Series {
    plane: Plane,
    requests: Vec<Attempt>,
    removed_s: Option<f64>,
}

/// The failover's drawing; `None` for other layers and where no request was captured.
pub(super) fn chart(layer: &Layer) -> Option<Chart> {
    if layer.id != LayerId::L6 {
        return None;
    }
    let series = Plane::ALL.map(|plane| Series {
        plane,
        requests: layer.of(plane).flat_map(|capture| Attempt::rows(&capture.output)).collect(),
        removed_s: layer.facts.of(plane).get("node_removed_after_s").and_then(serde_json::Value::as_f64),
    });
    let series = series.into_iter().filter(|s| !s.requests.is_empty()).collect::<Vec<_>>();
    let end_ms = series.iter().flat_map(Series::moments).max()?.max(1000);
    let scale = Scale::covering(end_ms);
    let lanes = (0_u32..).zip(&series).map(|(n, series)| series.lane(n * LANE, &scale)).collect::<Vec<_>>();
    let axis_y = u32::try_from(lanes.len()).ok()? * LANE;
    Some(Chart {
        caption:
            "Requests, one after the other, over the seconds since the scale-down. A tall mark is a failed \
                  request; its shade is as wide as the client waited."
                .to_owned(),
        summary: series.iter().map(Series::words).collect::<Vec<_>>().join(" "),
        height: axis_y + AXIS,
        axis_y,
        ticks: scale.ticks(),
        lanes,
    })
}

impl Series {
    fn moments(&self) -> impl Iterator<Item = u64> {
        let ends = self.requests.iter().map(|r| r.at_ms + r.took_us / 1000);
        ends.chain(self.removed_s.map(|s| (s * 1000.0) as u64))
    }

    fn failed(&self) -> usize {
        self.requests.iter().filter(|r| !r.ok()).count()
    }

    fn words(&self) -> String {
        let (failed, all) = (self.failed(), self.requests.len());
        let longest = self.requests.iter().filter(|r| !r.ok()).map(|r| r.took_us).max();
        let longest = longest.map_or(String::new(), |us| format!(", the longest after {} ms", us / 1000));
        let removed = match self.removed_s {
            Some(s) => format!("the pool dropped the node after {s} s"),
            None => "the pool did not drop the node".to_owned(),
        };
        format!("{}: {failed} of {all} requests failed{longest}; {removed}.", super::name(self.plane))
    }

    fn lane(&self, top: u32, scale: &Scale) -> Lane {
        let requests = self.requests.iter().map(|request| Request {
            x: scale.percent(request.at_ms),
            width: scale.percent(request.took_us / 1000),
            ok: request.ok(),
            words: request.to_string(),
        });
        let removed = self.removed_s.map(|s| {
            let x = scale.percent((s * 1000.0) as u64);
            let (anchor, shift) = if x > 60.0 { ("end", -6) } else { ("start", 6) };
            Removed { x, label: format!("dropped after {s} s"), anchor, shift }
        });
        Lane {
            plane: self.plane,
            label: format!(
                "{}: {} of {} failed",
                super::name(self.plane),
                self.failed(),
                self.requests.len()
            ),
            label_y: top + LABEL,
            base_y: top + BASE,
            requests: requests.collect(),
            removed,
        }
    }
}

/// From milliseconds to a share of the width.
struct Scale {
    end_ms: u64,
    step_s: u64,
}

impl Scale {
    fn covering(end_ms: u64) -> Self {
        let steps = [1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600];
        let fits = |step: &u64| end_ms / (step * 1000) < MOST_TICKS;
        Self { end_ms, step_s: steps.into_iter().find(fits).unwrap_or(7200) }
    }

    /// Rounded to what a screen can show, so that the document stays small and stable.
    fn percent(&self, ms: u64) -> f64 {
        (ms as f64 / self.end_ms as f64 * 100_000.0).round() / 1000.0
    }

    fn ticks(&self) -> Vec<Tick> {
        let moments = (0..=self.end_ms / 1000).step_by(usize::try_from(self.step_s).unwrap_or(usize::MAX));
        let tick = |s: u64| {
            let x = self.percent(s * 1000);
            let anchor = match x {
                x if x < 3.0 => "start",
                x if x > 97.0 => "end",
                _ => "middle",
            };
            Tick { x, label: format!("{s} s"), anchor }
        };
        moments.map(tick).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_span_gets_few_ticks_inside_the_drawing(end_ms in 1000..36_000_000_u64) {
            let ticks = Scale::covering(end_ms).ticks();
            prop_assert!((1..=6).contains(&ticks.len()), "{ticks:?}");
            prop_assert!(ticks.iter().all(|tick| (0.0..=100.0).contains(&tick.x)), "{ticks:?}");
        }
    }
}
