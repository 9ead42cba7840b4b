//! The page in a real browser: no error, no request, the right layers dimmed, readable at a phone's and a desk's width.

mod browser;

use std::path::{Path, PathBuf};

use browser::Browser;
use model::Plane;
use serde_json::{Value, json};
use trace::report::{LayerId, Trace};

fn fixture() -> Trace {
    serde_json::from_str(include_str!("fixtures/trace.json")).expect("fixture")
}

struct Page {
    browser: Browser,
    url: String,
    _folder: tempfile::TempDir,
}

/// The fixture's page, opened from its file; `None`, said aloud, where there is no browser.
fn open() -> Option<Page> {
    let Some(mut browser) = Browser::start() else {
        eprintln!("skipped: no chromium on this machine");
        return None;
    };
    let folder = tempfile::tempdir().expect("folder");
    let file = folder.path().join("index.html");
    std::fs::write(&file, trace::page::render(&fixture()).expect("render")).expect("write page");
    let url = format!("file://{}", file.display());
    browser.resize(1280, false);
    browser.open(&url);
    Some(Page { browser, url, _folder: folder })
}

/// Where a developer looks at the pictures.
fn picture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(name)
}

#[test]
fn the_page_loads_without_an_error_or_a_request() {
    let Some(mut page) = open() else { return };
    page.browser.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)");
    let mut requested = vec![];
    for event in &page.browser.events {
        match event["method"].as_str() {
            Some("Runtime.exceptionThrown" | "Log.entryAdded") => panic!("the page complains: {event}"),
            Some("Runtime.consoleAPICalled") if event["params"]["type"] == "error" => panic!("{event}"),
            Some("Network.requestWillBeSent") => requested.push(event["params"]["request"]["url"].clone()),
            _ => {}
        }
    }
    requested.retain(|url| !url.as_str().is_some_and(|url| url.starts_with("data:")));
    assert_eq!(requested, [json!(page.url)], "only the file itself");
}

#[test]
fn identical_layers_are_dimmed_and_folded_and_no_others() {
    let Some(mut page) = open() else { return };
    let seen = page.browser.evaluate(
        "[...document.querySelectorAll('section.layer')].map(s => ({
            id: s.id,
            dimmed: getComputedStyle(s.querySelector('h2')).color !== getComputedStyle(document.body).color,
            open: s.querySelector('details').open,
            badge: s.querySelector('.badge').textContent,
        }))",
    );
    let expected = fixture().layers.into_iter().map(|layer| {
        let badge = if layer.identical { "Identical" } else { "Differs" };
        json!({"id": layer.id, "dimmed": layer.identical, "open": !layer.identical, "badge": badge})
    });
    assert_eq!(seen, Value::from_iter(expected));
}

/// Both planes' lines about the same requests are on the screen, each in its own column, to be read without unfolding.
#[test]
fn flows_stand_beside_what_is_left_of_the_same_requests() {
    let Some(mut page) = open() else { return };
    let seen = page.browser.evaluate(
        "(() => {
            const of = plane => [...document.querySelectorAll(`#L7 .capture.${plane} pre`)];
            const lines = (plane, mark) => of(plane).flatMap(p => p.innerText.split('\\n')).filter(l => l.includes(mark));
            const shown = of('iptables').concat(of('ebpf')).every(p => p.checkVisibility());
            const [left, right] = ['iptables', 'ebpf'].map(p => of(p)[0].getBoundingClientRect());
            return {
                shown, beside: left.right <= right.left,
                forwarded: lines('ebpf', ' FORWARDED (TCP Flags: ').length,
                world: lines('ebpf', '(world').length > 0 && lines('ebpf', '(ID:').length > 0,
                byHand: lines('iptables', 'FORWARDED').length,
                tracked: lines('iptables', 'TIME_WAIT').length,
                heard: lines('iptables', 'Flags [S]').length > 0,
                counted: lines('ebpf', 'none lost').length,
            };
        })()",
    );
    let layer = fixture().layers.into_iter().find(|layer| layer.id == LayerId::L7).expect("L7");
    let ours = layer.of(Plane::Ebpf).map(|capture| trace::flowline::FlowLine::all(&capture.output).len());
    let (flows, requests) = (ours.sum::<usize>(), &layer.facts.ebpf["requests_made"]);
    assert!(flows >= 4 * 6, "{flows} flows in the fixture");
    let wanted = json!({
        "shown": true, "beside": true, "forwarded": flows, "world": true, "byHand": 0, "tracked": requests,
        "heard": true, "counted": 1,
    });
    // A connection that one node hands on is tracked by two; the client's own ports are on the first.
    assert_eq!(seen, wanted);
    let labels = page.browser.evaluate("document.querySelector('#L7 .facts').innerText");
    assert!(labels.as_str().is_some_and(|text| text.contains("say who talked to whom")), "{labels}");
}

/// The same request and the kernels' lists beside each other; who was turned away, why and by what, in full width.
#[test]
fn who_a_policy_turns_away_is_read_without_scrolling() {
    let Some(mut page) = open() else { return };
    let script = "(() => {
            const cards = title => [...document.querySelectorAll('#L8 .capture')]
                .filter(c => c.querySelector('h3').textContent === title);
            const beside = title => {
                const [left, right] = cards(title).map(c => c.getBoundingClientRect());
                return left.right <= right.left && Math.abs(left.top - right.top) < 2;
            };
            const whole = mark => [...document.querySelectorAll('#L8 .line')].filter(l => l.textContent.includes(mark))
                .every(l => l.checkVisibility() && l.closest('pre').scrollWidth <= l.closest('pre').clientWidth);
            const dimmed = c => getComputedStyle(c.querySelector('h3')).color !== getComputedStyle(document.body).color;
            return {
                beside: ['A request from role=other', 'The allow-list, as the kernel has it'].map(beside),
                got: cards('A request from role=other').map(c => /200|timed out/.exec(c.innerText)[0]),
                addOn: cards('With the add-on: a request from role=other').map(c => /200|timed out/.exec(c.innerText)[0]),
                whole: ['Policy denied DROPPED', '--match-set', 'ingress_denied_by', 'nearest: '].map(whole),
                dimmed: [...document.querySelectorAll('#L8 .capture')].filter(dimmed).length,
            };
        })()";
    let layer = fixture().layers.into_iter().find(|layer| layer.id == LayerId::L8).expect("L8");
    let alike = layer.captures.iter().filter(|capture| capture.identical).count();
    assert!(alike >= 2 && alike < layer.captures.len(), "{alike} of the fixture's captures are alike");
    let wanted = json!({
        "beside": [true, true], "got": ["200", "timed out"], "addOn": ["timed out"], "whole": [true, true, true, true],
        "dimmed": alike,
    });
    for (width, mobile) in [(1280, false), (390, true)] {
        page.browser.resize(width, mobile);
        let mut seen = page.browser.evaluate(script);
        if mobile {
            assert_eq!(seen["beside"], json!([false, false]), "stacked");
            seen["beside"] = wanted["beside"].clone();
        }
        assert_eq!(seen, wanted);
    }
}

#[test]
fn nothing_is_wider_than_the_window() {
    let Some(mut page) = open() else { return };
    for (width, mobile) in [(1280, false), (390, true), (320, true)] {
        for scheme in ["light", "dark"] {
            page.browser.resize(width, mobile);
            page.browser.prefer(scheme);
            page.browser.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)");
            let needed = page.browser.evaluate("document.documentElement.scrollWidth").as_u64();
            page.browser.screenshot(&picture(&format!("page-{width}-{scheme}.png")));
            assert_eq!(needed, Some(width.into()), "{scheme} theme");
        }
    }
}

#[test]
fn every_layer_can_be_gone_to_without_scrolling_on_a_desk() {
    let Some(mut page) = open() else { return };
    let links = page.browser.evaluate(
        "[...document.querySelectorAll('.layers-nav a')]
            .filter(a => a.getBoundingClientRect().right <= innerWidth).map(a => a.hash.slice(1))",
    );
    let layers = fixture().layers.into_iter().map(|layer| json!(layer.id));
    assert_eq!(links, Value::from_iter(layers));
}

#[test]
fn planes_stand_side_by_side_on_a_desk_and_stack_on_a_phone() {
    let Some(mut page) = open() else { return };
    let places = "(() => {
        const box = plane => document.querySelector(`section.differs .capture.${plane}`).getBoundingClientRect();
        const [left, right] = [box('iptables'), box('ebpf')];
        return left.right <= right.left && Math.abs(left.top - right.top) < 2 ? 'beside'
             : left.bottom <= right.top && left.left === right.left ? 'stacked' : 'neither';
    })()";
    assert_eq!(page.browser.evaluate(places), "beside");
    page.browser.resize(390, true);
    assert_eq!(page.browser.evaluate(places), "stacked");
}

#[test]
fn the_theme_follows_the_system_until_the_reader_chooses() {
    let Some(mut page) = open() else { return };
    let ground = "getComputedStyle(document.body).backgroundColor";
    page.browser.prefer("light");
    let light = page.browser.evaluate(ground);
    page.browser.prefer("dark");
    let dark = page.browser.evaluate(ground);
    assert_ne!(light, dark);
    page.browser.evaluate("document.querySelector('[data-theme-toggle]').click()");
    assert_eq!(page.browser.evaluate(ground), light, "chosen against the system");
    page.browser.evaluate("document.querySelector('[data-theme-toggle]').click()");
    assert_eq!(page.browser.evaluate(ground), dark);
}

#[test]
fn the_keyboard_reaches_everything() {
    let Some(mut page) = open() else { return };
    page.browser.press("Tab");
    let focused = "document.activeElement.className";
    assert_eq!(page.browser.evaluate(focused), "skip", "the first stop skips the head");
    page.browser.press("Enter");
    assert_eq!(page.browser.evaluate("document.activeElement.id"), "layers");
    let unreachable = page.browser.evaluate(
        "[...document.querySelectorAll('pre, summary, button:not([hidden]), a')]
            .filter(e => e.tabIndex < 0).map(e => e.outerHTML)",
    );
    assert_eq!(unreachable, json!([]));
    let nameless = page.browser.evaluate(
        "[...document.querySelectorAll('[role=region], svg[role=img]')]
            .filter(e => !e.getAttribute('aria-label') && !e.getAttribute('aria-labelledby')).map(e => e.outerHTML)",
    );
    assert_eq!(nameless, json!([]));
    let headings = page.browser.evaluate(
        "[...document.querySelectorAll('h1,h2,h3')].map(h => +h.tagName[1])
            .every((level, i, all) => i === 0 ? level === 1 : level <= all[i - 1] + 1)",
    );
    assert_eq!(headings, true, "no heading level is skipped");
}

#[test]
fn a_link_to_a_folded_layer_unfolds_it() {
    let Some(mut page) = open() else { return };
    let folded = fixture().layers.into_iter().find(|layer| layer.identical).expect("an identical layer").id;
    let open = format!("document.querySelector('#{folded} > .frame > details, #{folded} details').open");
    assert_eq!(page.browser.evaluate(&open), false);
    let url = format!("{}#{folded}", page.url);
    page.browser.evaluate(&format!("location.href = {}", json!(url)));
    // The event comes after the script that caused it.
    page.browser.evaluate("new Promise(done => setTimeout(done, 0))");
    assert_eq!(page.browser.evaluate(&open), true);
}
