//! The simple JSON paths of printer columns: `.a.b`, `['a.b']`, `[0]`, `[*]`, `[?(@.type=="Ready")]`.
//! Never anything recursive.

use serde_json::Value;

/// The first value a path finds.
pub(super) fn first<'a>(path: &str, value: &'a Value) -> Option<&'a Value> {
    let path = path.trim().trim_start_matches('{').trim_end_matches('}').trim_start_matches('$');
    if path.is_empty() {
        return Some(value).filter(|value| !value.is_null());
    }
    if let Some(rest) = path.strip_prefix('[') {
        let end = closing_bracket(rest)?;
        let (inside, rest) = (&rest[..end], &rest[end + 1..]);
        return selected(inside, value).into_iter().find_map(|value| first(rest, value));
    }
    let rest = path.strip_prefix('.').unwrap_or(path);
    let (key, rest) = rest.split_at(member_end(rest));
    // A backslash makes the next character part of the name.
    first(rest, value.get(key.replace('\\', ""))?)
}

fn member_end(path: &str) -> usize {
    let mut escaped = false;
    for (index, c) in path.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '.' | '[' => return index,
            _ => {}
        }
    }
    path.len()
}

fn closing_bracket(path: &str) -> Option<usize> {
    let mut quote = None;
    for (index, c) in path.char_indices() {
        match (quote, c) {
            (None, '"' | '\'') => quote = Some(c),
            (Some(open), _) if c == open => quote = None,
            (None, ']') => return Some(index),
            _ => {}
        }
    }
    None
}

fn selected<'a>(inside: &str, value: &'a Value) -> Vec<&'a Value> {
    let elements = || value.as_array().map_or(&[][..], Vec::as_slice);
    if inside == "*" {
        return elements().iter().collect();
    }
    if let Ok(index) = inside.parse::<i64>() {
        let index = if index < 0 { elements().len() as i64 + index } else { index };
        return usize::try_from(index).ok().and_then(|index| elements().get(index)).into_iter().collect();
    }
    if let Some(filter) = inside.strip_prefix("?(").and_then(|filter| filter.strip_suffix(')')) {
        return elements().iter().filter(|element| holds(filter, element)).collect();
    }
    value.get(inside.trim_matches(['\'', '"'])).into_iter().collect()
}

fn holds(filter: &str, element: &Value) -> bool {
    let (left, right, equal) = match (filter.split_once("=="), filter.split_once("!=")) {
        (Some((left, right)), _) => (left, right, true),
        (None, Some((left, right))) => (left, right, false),
        (None, None) => return first(filter.trim().trim_start_matches('@'), element).is_some(),
    };
    let found = first(left.trim().trim_start_matches('@'), element).unwrap_or(&Value::Null);
    let wanted = right.trim().trim_matches(['\'', '"']);
    let same = match found {
        Value::String(text) => text == wanted,
        Value::Null => false,
        other => serde_json::from_str::<Value>(wanted).is_ok_and(|wanted| wanted == *other),
    };
    same == equal
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::first;

    #[test]
    fn paths() {
        let value =
            json!({"spec": {"a.b": 1, "list": [{"type": "X", "v": "x"}, {"type": "Ready", "v": "True"}]}});
        for (path, expected) in [
            (".spec.list[1].v", json!("True")),
            (".spec.list[-1].v", json!("True")),
            (".spec.list[?(@.type==\"Ready\")].v", json!("True")),
            (".spec.list[?(@.type=='X')].v", json!("x")),
            (".spec.list[*].v", json!("x")),
            (".spec['a.b']", json!(1)),
            (".spec.a\\.b", json!(1)),
        ] {
            assert_eq!(first(path, &value), Some(&expected), "{path}");
        }
        for path in [".spec.none", ".spec.list[7]", ".spec.list[?(@.type==\"No\")].v", ".spec[", ""] {
            assert!(path.is_empty() || first(path, &value).is_none(), "{path}");
        }
    }
}
