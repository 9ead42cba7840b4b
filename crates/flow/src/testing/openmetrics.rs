//! Reads a page of metrics as strictly as OpenMetrics 1.0 is written. Knows no exemplars and no time stamps: pages here have
//! none.

use std::collections::{BTreeMap, BTreeSet};

/// A metric and its samples.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Family {
    /// `counter`, `gauge`, `histogram` or `info`.
    pub kind: String,
    pub help: String,
    pub samples: Vec<Sample>,
}

/// One line.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sample {
    /// With the suffix of its type.
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub value: f64,
}

/// All families by name, without suffixes.
///
/// # Errors
/// What is wrong, and in which line.
pub fn parse(page: &str) -> Result<BTreeMap<String, Family>, String> {
    let body = page.strip_suffix("# EOF\n").ok_or("the page does not end with # EOF")?;
    let mut families = BTreeMap::<String, Family>::new();
    let mut current = String::new();
    for line in body.lines() {
        take(line, &mut families, &mut current).map_err(|reason| format!("{reason}: {line}"))?;
    }
    for (name, family) in &families {
        check(family).map_err(|reason| format!("{name}: {reason}"))?;
    }
    Ok(families)
}

/// The names of samples that a family has: what a query asks for.
pub fn names(name: &str, kind: &str) -> Vec<String> {
    suffixes(kind).iter().map(|suffix| format!("{name}{suffix}")).collect()
}

fn suffixes(kind: &str) -> &'static [&'static str] {
    match kind {
        "counter" => &["_total"],
        "gauge" => &[""],
        "info" => &["_info"],
        "histogram" => &["_bucket", "_count", "_sum"],
        _ => &[],
    }
}

fn take(line: &str, families: &mut BTreeMap<String, Family>, current: &mut String) -> Result<(), String> {
    let Some(comment) = line.strip_prefix("# ") else {
        let sample = sample(line)?;
        let family = families.get_mut(current).ok_or("a sample before any TYPE")?;
        if !names(current, &family.kind).contains(&sample.name) {
            return Err(format!("not a sample of the {} {current}", family.kind));
        }
        family.samples.push(sample);
        return Ok(());
    };
    let mut words = comment.splitn(3, ' ');
    let (Some(word), Some(name), Some(rest)) = (words.next(), words.next(), words.next()) else {
        return Err("not a comment that OpenMetrics has".into());
    };
    if name != current.as_str() {
        if !is_name(name) || families.insert(name.to_owned(), Family::default()).is_some() {
            return Err(format!("{name:?} is no name, or there twice"));
        }
        *current = name.to_owned();
    }
    let family = families.get_mut(name).ok_or("no family")?;
    let slot = match word {
        "HELP" => &mut family.help,
        "TYPE" if !suffixes(rest).is_empty() => &mut family.kind,
        _ => return Err("unknown comment or type".into()),
    };
    if !slot.is_empty() {
        return Err(format!("a second {word}"));
    }
    *slot = rest.to_owned();
    Ok(())
}

fn sample(line: &str) -> Result<Sample, String> {
    let name_ends = line.find(['{', ' ']).ok_or("no value")?;
    let (name, mut rest) = line.split_at(name_ends);
    let mut labels = BTreeMap::new();
    if let Some(mut inside) = rest.strip_prefix('{') {
        loop {
            let (key, after) = inside.split_once("=\"").ok_or("a label without a value")?;
            let (value, after) = quoted(after)?;
            if !is_name(key) || labels.insert(key.to_owned(), value).is_some() {
                return Err(format!("label {key:?} is no name, or there twice"));
            }
            match after.strip_prefix(',') {
                Some(more) => inside = more,
                None => {
                    rest = after.strip_prefix('}').ok_or("labels do not end")?;
                    break;
                }
            }
        }
    }
    let value = rest.strip_prefix(' ').ok_or("no value")?;
    let value = value.parse().map_err(|_| format!("{value:?} is no number"))?;
    Ok(Sample { name: name.to_owned(), labels, value })
}

/// A label's value up to its closing quote, and what follows.
fn quoted(text: &str) -> Result<(String, &str), String> {
    let (mut value, mut chars) = (String::new(), text.char_indices());
    while let Some((place, c)) = chars.next() {
        match c {
            '"' => return Ok((value, &text[place + 1..])),
            '\\' => value.push(match chars.next() {
                Some((_, 'n')) => '\n',
                Some((_, c @ ('\\' | '"'))) => c,
                _ => return Err("an escape that does not exist".into()),
            }),
            c => value.push(c),
        }
    }
    Err("a value without an end".into())
}

fn is_name(name: &str) -> bool {
    let first_ok = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    first_ok && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

fn check(family: &Family) -> Result<(), String> {
    if family.help.is_empty() || family.kind.is_empty() || family.samples.is_empty() {
        return Err("without help, type or samples".into());
    }
    let mut seen = BTreeSet::new();
    for sample in &family.samples {
        if !seen.insert((&sample.name, &sample.labels)) {
            return Err(format!("twice {:?}", sample.labels));
        }
        let counts = matches!(family.kind.as_str(), "counter" | "histogram");
        if counts && !(sample.value >= 0.0 && sample.value.is_finite()) {
            return Err(format!("{} is not a count", sample.value));
        }
    }
    if family.kind == "histogram" { check_buckets(&family.samples) } else { Ok(()) }
}

/// Buckets add up, and the last has everything.
fn check_buckets(samples: &[Sample]) -> Result<(), String> {
    let mut buckets = BTreeMap::<BTreeMap<String, String>, Vec<(f64, f64)>>::new();
    let mut counts = BTreeMap::new();
    for sample in samples {
        let mut labels = sample.labels.clone();
        if sample.name.ends_with("_bucket") {
            let le = labels.remove("le").ok_or("a bucket without le")?;
            let le = le.parse().map_err(|_| format!("le {le:?}"))?;
            buckets.entry(labels).or_default().push((le, sample.value));
        } else if sample.name.ends_with("_count") {
            counts.insert(labels, sample.value);
        }
    }
    for (labels, buckets) in &buckets {
        let rising = buckets.windows(2).all(|two| two[0].0 < two[1].0 && two[0].1 <= two[1].1);
        let last = buckets.last().copied();
        if !rising
            || last.map(|(le, _)| le) != Some(f64::INFINITY)
            || last.map(|(_, n)| n) != counts.get(labels).copied()
        {
            return Err(format!("buckets of {labels:?} do not add up"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_standard_allows_is_read() {
        let good = "# HELP a A.\n# TYPE a counter\na_total{x=\"1\\\"\\n\"} 3\n# EOF\n";
        let family = &parse(good).expect("a page")["a"];
        assert_eq!((family.samples[0].value, family.samples[0].labels["x"].as_str()), (3.0, "1\"\n"));
        for bad in [
            "# HELP a A.\n# TYPE a counter\na_total 3\n",
            "# HELP a A.\n# TYPE a counter\na_total 3\n# EOF\n\n",
            "# HELP a A.\n# TYPE a counter\na 3\n# EOF\n",
            "# HELP a A.\n# TYPE a counter\na_total -3\n# EOF\n",
            "# HELP a A.\n# TYPE a counter\na_total 3\na_total 4\n# EOF\n",
            "# HELP a A.\n# TYPE a counter\n# EOF\n",
            "# TYPE a counter\na_total 3\n# EOF\n",
            "# HELP a A.\n# TYPE a whatever\na 3\n# EOF\n",
            "# HELP a A.\n# TYPE a gauge\na{x=\"1} 3\n# EOF\n",
            "# HELP a A.\n# TYPE a gauge\na{x=\"1\",x=\"2\"} 3\n# EOF\n",
            "# HELP a A.\n# TYPE a gauge\na three\n# EOF\n",
            "# HELP a A.\n# TYPE a gauge\na 3\n# HELP b B.\n# TYPE b gauge\nb 3\n# HELP a A.\n# EOF\n",
            "# HELP a A.\n# TYPE a histogram\na_bucket{le=\"1\"} 2\na_bucket{le=\"+Inf\"} 1\na_count 1\na_sum 1\n# EOF\n",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
