//! The table as a page: cost over the number of services, bars against targets. One file, nothing fetched, no script.
//!
//! A pure function of the report. Widths are percentages or a small view box, so that it reads on a phone.

use minijinja::{AutoEscape, Environment, context, value::Serde};
use serde::Serialize;

use crate::rows::{Report, Row, Target, number, verdict};

const TEMPLATE: &str = include_str!("../assets/page.html");

/// Service counts on the axis, with the suffix of a row's id and the place in the drawing.
const SIZES: [(&str, &str, f64); 3] = [("10", "-10", 50.0), ("1,000", "-1k", 190.0), ("10,000", "", 330.0)];
/// The drawing's lowest and highest line.
const BASE: f64 = 180.0;
const TOP: f64 = 20.0;

#[derive(Debug, Serialize)]
struct Chart {
    title: &'static str,
    unit: &'static str,
    ticks: Vec<Tick>,
    series: Vec<Series>,
}

#[derive(Debug, Serialize)]
struct Tick {
    y: f64,
    label: String,
}

#[derive(Debug, Serialize)]
struct Series {
    name: &'static str,
    class: &'static str,
    points: String,
    dots: Vec<Dot>,
}

#[derive(Debug, Serialize)]
struct Dot {
    x: f64,
    y: f64,
    words: String,
}

#[derive(Debug, Serialize)]
struct Bar {
    id: String,
    what: String,
    value: String,
    target: String,
    verdict: &'static str,
    /// Percent of the width; the target stands at half of it.
    width: f64,
}

#[derive(Debug, Serialize)]
struct Line {
    id: String,
    what: String,
    value: String,
    control: String,
    ratio: String,
}

/// Where the values of a line are: name, class, id without its size, and whether the row's control is meant.
type Source = (&'static str, &'static str, &'static str, fn(&Row) -> f64);

pub(crate) fn render(report: &Report, machine: &str) -> anyhow::Result<String> {
    let mut environment = Environment::new();
    environment.set_auto_escape_callback(|_| AutoEscape::Html);
    environment.add_template("page", TEMPLATE)?;
    let sizes: Vec<_> = SIZES.into_iter().map(|(label, _, x)| context! { label, x }).collect();
    let view = context! {
        machine,
        sizes,
        base => BASE,
        charts => Serde(charts(report)),
        bars => Serde(report.sorted().into_iter().filter_map(bar).collect::<Vec<_>>()),
        lines => Serde(report.sorted().into_iter().map(line).collect::<Vec<_>>()),
    };
    Ok(environment.get_template("page")?.render(view)?)
}

fn charts(report: &Report) -> Vec<Chart> {
    let value: fn(&Row) -> f64 = |row| row.value;
    let control: fn(&Row) -> f64 = |row| row.control;
    let connect = |plain, iptables| -> Vec<Source> {
        vec![
            ("plain routing", "plain", plain, control),
            ("ebpf", "ebpf", plain, value),
            ("iptables", "iptables", iptables, value),
        ]
    };
    let charts = [
        (
            "connect(2), pod to ClusterIP, median",
            "µs",
            connect("connect-p50-clusterip", "connect-p50-clusterip-iptables"),
        ),
        (
            "connect(2), client to LoadBalancer, median",
            "µs",
            connect("connect-p50-vip", "connect-p50-vip-iptables"),
        ),
        (
            "Connections a second through a ClusterIP, of plain routing",
            "share",
            vec![
                ("ebpf", "ebpf", "conn-share-clusterip", value),
                ("iptables", "iptables", "conn-share-clusterip-iptables", value),
            ],
        ),
        (
            "One packet in the eBPF datapath",
            "ns",
            vec![
                ("new flow", "ebpf", "pod-clusterip-new", value),
                ("established", "ebpf dashed", "pod-clusterip-est", value),
                ("no service", "plain", "no-service-tc", value),
            ],
        ),
    ];
    charts.into_iter().filter_map(|(title, unit, sources)| chart(report, title, unit, &sources)).collect()
}

/// `None` where nothing of it was measured.
fn chart(report: &Report, title: &'static str, unit: &'static str, sources: &[Source]) -> Option<Chart> {
    let values = |source: &Source| -> Vec<(f64, f64)> {
        let (_, _, id, part) = source;
        let at = |(_, suffix, x): &(&str, &str, f64)| {
            let row = report.rows.iter().find(|row| row.id == format!("{id}{suffix}"))?;
            Some((*x, part(row)))
        };
        SIZES.iter().filter_map(at).collect()
    };
    let all: Vec<_> = sources.iter().map(values).collect();
    let most = all.iter().flatten().map(|(_, value)| *value).fold(0.0, f64::max);
    if most <= 0.0 {
        return None;
    }
    let step = step(most);
    let steps = (most / step).ceil();
    let height = |value: f64| BASE - value / (steps * step) * (BASE - TOP);
    let series = sources.iter().zip(&all).map(|((name, class, ..), values)| Series {
        name,
        class,
        points: values.iter().map(|(x, value)| format!("{x},{:.1} ", height(*value))).collect(),
        dots: values
            .iter()
            .map(|(x, value)| Dot {
                x: *x,
                y: height(*value),
                words: format!("{name}: {} {unit}", number(*value)),
            })
            .collect(),
    });
    let ticks =
        (0..=steps as u32).map(f64::from).map(|n| Tick { y: height(n * step), label: label(n * step) });
    Some(Chart { title, unit, ticks: ticks.collect(), series: series.collect() })
}

/// A round distance of lines, three to six of them.
fn step(most: f64) -> f64 {
    let power = 10f64.powf((most / 3.0).log10().floor());
    [1.0, 2.0, 5.0, 10.0].into_iter().map(|n| n * power).rfind(|step| most / step >= 2.5).unwrap_or(power)
}

/// As short as it can be.
fn label(value: f64) -> String {
    let digits = (0..=3).find(|digits| (value * 10f64.powi(*digits)).fract().abs() < 1e-6).unwrap_or(3);
    format!("{value:.*}", digits as usize)
}

fn bar(row: &Row) -> Option<Bar> {
    let target = Target::of(&row.id)?;
    Some(Bar {
        id: row.id.clone(),
        what: row.what.clone(),
        value: format!("{} {}", number(row.value), row.unit),
        target: target.words(),
        verdict: verdict(target.met(row.value)),
        width: (row.value / target.limit() * 50.0).min(100.0),
    })
}

fn line(row: &Row) -> Line {
    Line {
        id: row.id.clone(),
        what: row.what.clone(),
        value: format!("{} {}", number(row.value), row.unit),
        control: format!("{} ({})", number(row.control), row.controlled_by),
        ratio: format!("{:.2}", row.ratio),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let mut report = Report::default();
        for (suffix, plain, iptables) in [("-10", 30.0, 40.0), ("-1k", 31.0, 60.0), ("", 30.0, 220.0)] {
            let id = |name: &str| format!("connect-p50-clusterip{name}{suffix}");
            report.add((id(""), "ebpf"), (33.0, "us"), (plain, "plain veth"));
            report.add((id("-iptables"), "<iptables>"), (iptables, "us"), (plain, "plain veth"));
        }
        report.add(("pod-clusterip-est", "packet"), (150.0, "ns"), (20.0, "empty"));
        report
    }

    #[test]
    fn the_page_fetches_nothing_and_escapes_what_it_shows() {
        let page = render(&report(), "2 CPUs").expect("render");
        for outside in ["http:", "https:", "src=", "url(", "<script", "@import"] {
            assert!(!page.contains(outside), "{outside}");
        }
        assert!(page.contains("&lt;iptables&gt;") && !page.contains("<iptables>"));
        assert_eq!(page.matches("<figure").count(), 2, "a chart without values is left out: {page}");
    }

    #[test]
    fn lines_rise_with_cost_and_bars_stand_against_their_target() {
        let charts = charts(&report());
        let [_, ebpf, iptables] = &charts[0].series[..] else { panic!("three lines") };
        assert_eq!(ebpf.dots[0].y, ebpf.dots[2].y);
        assert!(iptables.dots[2].y < iptables.dots[1].y && iptables.dots[2].y >= TOP);
        assert!(charts[0].ticks.len() <= 7, "{:?}", charts[0].ticks);
        let bars: Vec<_> = report().sorted().into_iter().filter_map(bar).collect();
        assert_eq!((bars.len(), bars[0].width, bars[0].verdict), (1, 100.0, "missed"));
    }

    #[test]
    fn axes_have_round_numbers() {
        assert_eq!([label(0.0), label(0.2), label(20.0), label(1000.0)], ["0", "0.2", "20", "1000"]);
        for most in [0.97, 33.0, 220.0, 812.0] {
            let lines = most / step(most);
            assert!((2.0..=6.0).contains(&lines), "{most}: {lines}");
        }
    }
}
