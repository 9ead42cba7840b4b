//! Which messages of a pod's packets may be read: what its own annotation says, else its Namespace's, else none. Pure.

use std::collections::BTreeMap;

use model::L7Visibility;

use crate::problem::Report;

/// The annotation, on Pods and Namespaces: `dns`, `http`, or both with a comma between; `none` and nothing are none.
pub const L7_ANNOTATION: &str = "twinplane.dev/l7";

/// Reads the annotation. A word that is none of those is reported, and the others count; `None`: not annotated.
pub(crate) fn read(
    annotations: Option<&BTreeMap<String, String>>,
    report: &mut Report,
) -> Option<L7Visibility> {
    let value = annotations?.get(L7_ANNOTATION)?;
    let mut visible = L7Visibility::default();
    for word in value.split(',').map(str::trim) {
        match word {
            "dns" => visible.dns = true,
            "http" => visible.http = true,
            "" | "none" => {}
            other => {
                let shown: String = other.chars().take(40).collect();
                let reason = format!("unknown protocol {shown:?}: want dns, http or none");
                report.add(format!("metadata.annotations[{L7_ANNOTATION}]"), reason);
            }
        }
    }
    Some(visible)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::problem::ObjectRef;

    fn read_value(value: Option<&str>) -> (Option<(bool, bool)>, Vec<String>) {
        let annotations = value.map(|value| [(L7_ANNOTATION.to_owned(), value.to_owned())].into());
        let mut report = Report::of(ObjectRef::namespace("shop"));
        let visible = read(annotations.as_ref(), &mut report);
        let problems = report.finish().iter().map(ToString::to_string).collect();
        (visible.map(|visible| (visible.dns, visible.http)), problems)
    }

    #[test]
    fn words_count_each_for_itself() {
        for (value, expected) in [
            ("dns", (true, false)),
            ("http", (false, true)),
            (" dns , http ", (true, true)),
            ("dns,,dns", (true, false)),
            ("none", (false, false)),
            ("", (false, false)),
        ] {
            assert_eq!(read_value(Some(value)), (Some(expected), vec![]), "{value}");
        }
        assert_eq!(read_value(None), (None, vec![]));
        let (visible, problems) = read_value(Some("dns,HTTP"));
        assert_eq!(visible, Some((true, false)));
        assert_eq!(
            problems,
            [
                r#"Namespace shop: metadata.annotations[twinplane.dev/l7]: unknown protocol "HTTP": want dns, http or none"#
            ]
        );
    }
}
