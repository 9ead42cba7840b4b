//! The page's text: escaping, dimming, contrast. What a browser makes of it is tested in `tests/page.rs`.

use std::collections::BTreeMap;

use serde_json::json;

use super::*;

fn fixture() -> Trace {
    serde_json::from_str(include_str!("../../tests/fixtures/trace.json")).expect("fixture")
}

/// A relative luminance in both themes, by variable name.
type Palette = BTreeMap<String, [f64; 2]>;

/// WCAG 2.2, relative luminance, of `#rrggbb`.
fn luminance(colour: &str) -> f64 {
    let channel = |at: usize| {
        let value = u8::from_str_radix(&colour[at..at + 2], 16).expect("hexadecimal") as f64 / 255.0;
        if value <= 0.04045 { value / 12.92 } else { ((value + 0.055) / 1.055).powf(2.4) }
    };
    assert!(colour.len() == 7 && colour.starts_with('#'), "{colour}");
    0.2126 * channel(1) + 0.7152 * channel(3) + 0.0722 * channel(5)
}

fn palette() -> Palette {
    let declared = STYLE.lines().filter_map(|line| {
        let (name, value) = line.trim().strip_prefix("--")?.split_once(": light-dark(")?;
        let (light, dark) = value.strip_suffix(");")?.split_once(", ")?;
        Some((name.to_owned(), [luminance(light), luminance(dark)]))
    });
    declared.collect()
}

fn contrast(a: f64, b: f64) -> f64 {
    (a.max(b) + 0.05) / (a.min(b) + 0.05)
}

/// Text on every background it stands on; dimmed layers use `soft`.
#[test]
fn text_has_aa_contrast_in_both_themes() {
    let palette = palette();
    for text in ["ink", "soft", "iptables", "ebpf", "bad"] {
        for ground in ["paper", "card", "code"] {
            for (theme, name) in ["light", "dark"].into_iter().enumerate() {
                let ratio = contrast(palette[text][theme], palette[ground][theme]);
                assert!(ratio >= 4.5, "{text} on {ground} in the {name} theme: {ratio:.2}");
            }
        }
    }
}

/// WCAG 2.2, 1.4.11: what carries meaning in a drawing, and the focus ring.
#[test]
fn marks_have_contrast_in_both_themes() {
    let palette = palette();
    for mark in ["ok", "bad", "ink", "focus", "iptables", "ebpf"] {
        for (mark_luminance, card) in palette[mark].into_iter().zip(palette["card"]) {
            let ratio = contrast(mark_luminance, card);
            assert!(ratio >= 3.0, "{mark}: {ratio:.2}");
        }
    }
}

/// Otherwise the two tests above would not speak for the page.
#[test]
fn every_colour_is_a_variable_and_nothing_fades() {
    let rules = STYLE.split_once("*, *::before").expect("rules follow the variables").1;
    for forbidden in ["#", "rgb(", "hsl(", "opacity", "filter:"] {
        assert!(!rules.contains(forbidden), "{forbidden} outside the palette");
    }
}

#[test]
fn what_was_captured_is_text_and_nothing_else() {
    let hostile = "</pre><script>alert(1)</script>\"'&<img src=x onerror=alert(2)>";
    let mut trace = fixture();
    for layer in &mut trace.layers {
        layer.title = hostile.into();
        layer.facts.ebpf.insert(hostile.into(), json!(hostile));
        for capture in &mut layer.captures {
            for field in [
                &mut capture.title,
                &mut capture.r#where,
                &mut capture.command,
                &mut capture.output,
                &mut capture.note,
            ] {
                *field = hostile.into();
            }
        }
    }
    let page = render(&trace).expect("render");
    assert!(!page.contains("<img"), "markup from a capture");
    assert_eq!(page.matches("<script").count(), 1, "the page's own script");
    assert_eq!(page.matches("</pre>").count(), page.matches("<pre").count());
    assert!(page.contains("&lt;script&gt;alert(1)"), "shown as text");
}

#[test]
fn layers_are_dimmed_as_the_comparison_says() {
    let mut trace = fixture();
    for identical in [true, false] {
        for layer in &mut trace.layers {
            layer.identical = identical;
        }
        let page = render(&trace).expect("render");
        let count = |class: &str| page.matches(&format!("<section class=\"layer {class}\"")).count();
        let (dimmed, bright) = (count("same"), count("differs"));
        assert_eq!(
            (dimmed, bright),
            if identical { (trace.layers.len(), 0) } else { (0, trace.layers.len()) }
        );
        assert_eq!(page.matches("<details open>").count(), bright, "what differs is unfolded");
    }
}

#[test]
fn every_capture_is_shown_with_its_command() {
    let trace = fixture();
    let page = render(&trace).expect("render");
    let captures = trace.layers.iter().map(|layer| layer.captures.len()).sum::<usize>();
    assert_eq!(page.matches("<article").count(), captures);
    assert_eq!(page.matches("data-copy hidden").count(), captures);
}

/// Lines may be broken, columns not.
#[test]
fn what_has_columns_is_kept_as_it_is() {
    let mut trace = fixture();
    let layer = trace.layers.first_mut().expect("a layer");
    layer.captures.truncate(2);
    layer.captures[0].output = "NAME    AGE   X\nnginx   1s    y\n".into();
    layer.captures[1].output = "one long line\n\n  and another\n".into();
    trace.layers.truncate(1);
    let page = render(&trace).expect("render");
    assert!(page.contains(">NAME    AGE   X\nnginx   1s    y</pre>"));
    let lines =
        ["one long line", "", "  and another"].map(|line| format!("<span class=\"line\">{line}</span>"));
    assert!(page.contains(&lines.concat()));
}

#[test]
fn the_drawing_says_what_the_rows_say() {
    let trace = fixture();
    let failover = trace.layers.iter().find(|layer| layer.id == LayerId::L6).expect("L6");
    let rows = failover.captures.iter().flat_map(|c| crate::attempt::Attempt::rows(&c.output));
    let (answered, failed) = rows.partition::<Vec<_>, _>(|row| row.ok());
    assert!(!answered.is_empty() && !failed.is_empty(), "the fixture shows both");
    let page = render(&trace).expect("render");
    let drawing =
        &page[page.find("<figure").expect("drawing")..page.find("<ul class=\"legend\"").expect("legend")];
    assert_eq!(drawing.matches("class=\"request-ok\"").count(), answered.len());
    assert_eq!(drawing.matches("class=\"request-bad\"").count(), failed.len());
    assert_eq!(drawing.matches("class=\"removed\"").count(), 2);
}

#[test]
fn nothing_is_fetched() {
    let page = render(&fixture()).expect("render");
    // What was captured may say src= too, but not within a tag.
    let mut tags = page.split('<').skip(1).filter_map(|rest| Some(rest.split_once('>')?.0));
    assert_eq!(tags.find(|tag| tag.contains(" src=")), None);
    for reference in ["<link rel=\"stylesheet\"", "@import", "url("] {
        assert!(!page.contains(reference), "{reference}");
    }
    assert!(page.contains("default-src &#x27;none&#x27;") || page.contains("default-src 'none'"));
}

#[test]
fn the_verdict_names_the_layers() {
    let trace = fixture();
    let verdict = verdict(&trace);
    assert!(
        verdict.starts_with("The planes differ in L3, L4, L6, L7 and L8.")
            && verdict.contains("L1, L2 and L5"),
        "{verdict}"
    );
    assert_eq!(super::verdict(&Trace { schema: 1, layers: vec![] }), "No layer was traced.");
}
