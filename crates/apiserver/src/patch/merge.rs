//! JSON merge patch (RFC 7396). Never merges lists.

use serde_json::{Value, json};

/// Applies `patch` to `target`.
pub(crate) fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(changes) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    if let Value::Object(members) = target {
        for (key, change) in changes {
            if change.is_null() {
                members.remove(key);
            } else {
                merge(members.entry(key.as_str()).or_insert(Value::Null), change);
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::merge;

    /// Small JSON values, without null members unless asked for.
    pub(crate) fn value(nulls: bool) -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            any::<bool>().prop_map(Value::from),
            (0i64..4).prop_map(Value::from),
            "[ab]{0,2}".prop_map(Value::from),
            Just(if nulls { Value::Null } else { json!(7) }),
        ];
        leaf.prop_recursive(3, 16, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
                prop::collection::btree_map("[a-d]", inner, 0..4)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    #[test]
    fn the_rfc_s_example() {
        let mut target = json!({"title": "Goodbye!", "author": {"givenName": "John", "familyName": "Doe"},
            "tags": ["example", "sample"], "content": "x"});
        merge(
            &mut target,
            &json!({"title": "Hello!", "phoneNumber": "1", "author": {"familyName": null},
            "tags": ["example"]}),
        );
        assert_eq!(
            target,
            json!({"title": "Hello!", "author": {"givenName": "John"}, "tags": ["example"], "content": "x",
                "phoneNumber": "1"})
        );
    }

    proptest! {
        #[test]
        fn applying_twice_is_applying_once(target in value(false), patch in value(true)) {
            let mut once = target;
            merge(&mut once, &patch);
            let mut twice = once.clone();
            merge(&mut twice, &patch);
            prop_assert_eq!(once, twice);
        }

        #[test]
        fn an_empty_patch_changes_no_object(target in value(false)) {
            let target = json!({"a": target});
            let mut merged = target.clone();
            merge(&mut merged, &json!({}));
            prop_assert_eq!(merged, target);
        }
    }
}
