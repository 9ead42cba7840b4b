//! Strategic merge patch: a merge patch that knows which lists merge by a key, and the directives `$patch`,
//! `$retainKeys`, `$setElementOrder/…` and `$deleteFromPrimitiveList/…`. Never keeps a directive in the result.

use serde_json::{Map, Value, json};

use crate::{
    schema::{Field, ListKind, Type},
    status::ApiError,
};

const PATCH: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const ORDER: &str = "$setElementOrder/";
const DELETE_PRIMITIVES: &str = "$deleteFromPrimitiveList/";

/// Applies `patch` to an object of a type.
pub(crate) fn strategic(target: &mut Value, patch: &Value, of: Type) -> Result<(), ApiError> {
    let Value::Object(patch) = patch else {
        return Err(ApiError::BadRequest("a strategic merge patch must be an object".to_owned()));
    };
    merge_object(target, patch, of)
}

fn merge_object(target: &mut Value, patch: &Map<String, Value>, of: Type) -> Result<(), ApiError> {
    match patch.get(PATCH).and_then(Value::as_str) {
        None | Some("merge") => {}
        Some("replace") => {
            *target = without_directives(patch);
            return Ok(());
        }
        Some("delete") => {
            *target = json!({});
            return Ok(());
        }
        Some(other) => return Err(bad(format!("Unknown patch type found: {other}"))),
    }
    if !target.is_object() {
        *target = json!({});
    }
    let Value::Object(members) = target else { return Ok(()) };
    if let Some(retained) = patch.get(RETAIN_KEYS) {
        retain_keys(members, patch, retained)?;
    }
    for (key, change) in patch.iter().filter(|(key, _)| !key.starts_with('$')) {
        if change.is_null() {
            members.remove(key);
            continue;
        }
        merge_member(members, key, change, of.field(key))?;
    }
    for (directive, values) in patch {
        if let Some(key) = directive.strip_prefix(DELETE_PRIMITIVES) {
            delete_primitives(members, key, values)?;
        }
    }
    for (directive, order) in patch {
        if let Some(key) = directive.strip_prefix(ORDER) {
            let in_patch = patch.get(key).unwrap_or(&Value::Null);
            set_order(members, key, order, in_patch, of.field(key).list)?;
        }
    }
    Ok(())
}

fn merge_member(
    members: &mut Map<String, Value>,
    key: &str,
    change: &Value,
    field: Field,
) -> Result<(), ApiError> {
    let slot = members.entry(key).or_insert(Value::Null);
    match change {
        Value::Object(change) => {
            let deletes = change.get(PATCH).is_some_and(|directive| directive == "delete");
            merge_object(slot, change, field.of)?;
            if deletes {
                members.remove(key);
            }
            Ok(())
        }
        Value::Array(change) => merge_list(slot, change, field),
        scalar => {
            *slot = scalar.clone();
            Ok(())
        }
    }
}

fn merge_list(slot: &mut Value, change: &[Value], field: Field) -> Result<(), ApiError> {
    let mut current = match slot.take() {
        Value::Array(elements) => elements,
        _ => Vec::new(),
    };
    let merged = match field.list {
        ListKind::Atomic => change.iter().map(strip).collect(),
        ListKind::Set => {
            for element in change {
                if !current.contains(element) {
                    current.push(element.clone());
                }
            }
            current
        }
        ListKind::Map { merge_key, .. } | ListKind::MergeOnly { merge_key } => {
            merge_keyed(current, change, merge_key, field.of)?
        }
    };
    *slot = Value::Array(merged);
    Ok(())
}

fn merge_keyed(
    mut current: Vec<Value>,
    change: &[Value],
    merge_key: &str,
    of: Type,
) -> Result<Vec<Value>, ApiError> {
    if change.iter().any(|element| element[PATCH] == "replace") {
        return Ok(change.iter().filter(|element| element[PATCH].is_null()).map(strip).collect());
    }
    for element in change {
        let Value::Object(members) = element else {
            return Err(bad(format!("an element of a list merged by {merge_key:?} is not an object")));
        };
        let key = members
            .get(merge_key)
            .ok_or_else(|| bad(format!("map: {element} does not contain declared merge key: {merge_key}")))?;
        let position = current.iter().position(|other| &other[merge_key] == key);
        match (element[PATCH].as_str(), position) {
            (Some("delete"), _) => current.retain(|other| &other[merge_key] != key),
            (_, Some(position)) => merge_object(&mut current[position], members, of)?,
            (_, None) => {
                let mut added = json!({});
                merge_object(&mut added, members, of)?;
                current.push(added);
            }
        }
    }
    Ok(current)
}

fn retain_keys(
    members: &mut Map<String, Value>,
    patch: &Map<String, Value>,
    retained: &Value,
) -> Result<(), ApiError> {
    let retained = retained.as_array().ok_or_else(|| bad("$retainKeys must be a list".to_owned()))?;
    let known = |key: &str| retained.iter().any(|entry| entry == key);
    if let Some(stray) =
        patch.iter().find(|(key, value)| !key.starts_with('$') && !value.is_null() && !known(key))
    {
        return Err(bad(format!("$retainKeys does not name {:?}, which the patch sets", stray.0)));
    }
    members.retain(|key, _| known(key));
    Ok(())
}

fn delete_primitives(members: &mut Map<String, Value>, key: &str, values: &Value) -> Result<(), ApiError> {
    let values = values.as_array().ok_or_else(|| bad(format!("{DELETE_PRIMITIVES}{key} must be a list")))?;
    if let Some(Value::Array(current)) = members.get_mut(key) {
        current.retain(|element| !values.contains(element));
    }
    Ok(())
}

/// Orders a merged list: elements the patch lists in the patch's order; those only the server has stay where they are
/// relative to what preceded them.
fn set_order(
    members: &mut Map<String, Value>,
    key: &str,
    order: &Value,
    in_patch: &Value,
    list: ListKind,
) -> Result<(), ApiError> {
    let order = order.as_array().ok_or_else(|| bad(format!("{ORDER}{key} must be a list")))?;
    let merge_key = match list {
        ListKind::Map { merge_key, .. } | ListKind::MergeOnly { merge_key } => Some(merge_key),
        ListKind::Set | ListKind::Atomic => None,
    };
    let id = |element: &Value| merge_key.map_or_else(|| element.clone(), |key| element[key].clone());
    let place = |element: &Value| order.iter().position(|entry| id(entry) == id(element));
    let patched = in_patch.as_array().map_or(&[][..], Vec::as_slice);
    if let Some(stray) = patched.iter().find(|element| element[PATCH].is_null() && place(element).is_none()) {
        return Err(bad(format!("the list {key} has {stray}, which {ORDER}{key} does not name")));
    }
    let Some(Value::Array(current)) = members.get_mut(key) else { return Ok(()) };
    let mut ordered: Vec<(usize, Value)> = Vec::with_capacity(current.len());
    let mut server_only: Vec<(Option<Value>, Value)> = Vec::new();
    let mut previous: Option<Value> = None;
    for element in current.drain(..) {
        let own = id(&element);
        match place(&element) {
            Some(place) => ordered.push((place, element)),
            None => server_only.push((previous.clone(), element)),
        }
        previous = Some(own);
    }
    ordered.sort_by_key(|(place, _)| *place);
    let mut result: Vec<Value> = ordered.into_iter().map(|(_, element)| element).collect();
    for (after, element) in server_only {
        let at = after
            .and_then(|after| result.iter().position(|other| id(other) == after))
            .map_or(0, |position| position + 1);
        result.insert(at, element);
    }
    *current = result;
    Ok(())
}

fn strip(value: &Value) -> Value {
    match value {
        Value::Object(members) => without_directives(members),
        Value::Array(elements) => elements.iter().map(strip).collect(),
        scalar => scalar.clone(),
    }
}

fn without_directives(members: &Map<String, Value>) -> Value {
    members
        .iter()
        .filter(|(key, _)| !key.starts_with('$'))
        .map(|(key, value)| (key.clone(), strip(value)))
        .collect::<Map<_, _>>()
        .into()
}

fn bad(message: String) -> ApiError {
    ApiError::BadRequest(message)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::strategic;
    use crate::{patch::merge::tests::value, resource::Builtin, schema::Type};

    fn patched(target: Value, patch: Value, builtin: Builtin) -> Value {
        let mut target = target;
        strategic(&mut target, &patch, Type::Object(builtin)).unwrap();
        target
    }

    #[test]
    fn ports_merge_by_number_and_keep_what_the_server_added() {
        let service = json!({"spec": {"ports": [{"port": 80, "nodePort": 30080}, {"port": 443}]}});
        let patch = json!({"spec": {"$setElementOrder/ports": [{"port": 8080}, {"port": 80}],
            "ports": [{"port": 8080}, {"port": 80, "name": "http"}, {"port": 443, "$patch": "delete"}]}});
        assert_eq!(
            patched(service, patch, Builtin::Service),
            json!({"spec": {"ports": [{"port": 8080}, {"port": 80, "nodePort": 30080, "name": "http"}]}})
        );
    }

    #[test]
    fn containers_merge_deeply() {
        let target = json!({"spec": {"template": {"spec": {"containers": [
            {"name": "a", "image": "x", "env": [{"name": "E", "value": "1"}], "args": ["1", "2"]}, {"name": "b"}]}}}});
        let patch = json!({"spec": {"template": {"spec": {"containers": [
            {"name": "a", "image": "y", "env": [{"name": "F"}], "args": ["3"]}]}}}});
        assert_eq!(
            patched(target, patch, Builtin::Deployment)["spec"]["template"]["spec"]["containers"],
            json!([{"name": "a", "image": "y", "env": [{"name": "E", "value": "1"}, {"name": "F"}], "args": ["3"]},
                {"name": "b"}])
        );
    }

    #[test]
    fn directives() {
        let replaced = patched(
            json!({"spec": {"ports": [{"port": 1}], "type": "x"}}),
            json!({"spec": {"ports": [{"port": 2}, {"$patch": "replace"}]}}),
            Builtin::Service,
        );
        assert_eq!(replaced["spec"], json!({"ports": [{"port": 2}], "type": "x"}));
        let retained = patched(
            json!({"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}}),
            json!({"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}}),
            Builtin::Deployment,
        );
        assert_eq!(retained["spec"]["strategy"], json!({"type": "Recreate"}));
        let finalizers = patched(
            json!({"metadata": {"finalizers": ["a", "b"]}}),
            json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["a"], "finalizers": ["c"],
                "$setElementOrder/finalizers": ["c", "b"]}}),
            Builtin::Pod,
        );
        assert_eq!(finalizers["metadata"]["finalizers"], json!(["c", "b"]));
        let object = patched(
            json!({"metadata": {"labels": {"a": "1"}}}),
            json!({"metadata": {"labels": {"$patch": "replace", "b": "2"}}}),
            Builtin::Pod,
        );
        assert_eq!(object["metadata"]["labels"], json!({"b": "2"}));
        let deleted = patched(
            json!({"metadata": {"labels": {"a": "1"}, "name": "x"}}),
            json!({"metadata": {"labels": {"$patch": "delete"}}}),
            Builtin::Pod,
        );
        assert_eq!(deleted["metadata"], json!({"name": "x"}));
    }

    #[test]
    fn elements_only_the_server_has_keep_their_place() {
        let target = json!({"spec": {"containers": [{"name": "a"}, {"name": "s"}, {"name": "b"}]}});
        let patch = json!({"spec": {"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}]}});
        let names: Vec<Value> = patched(target, patch, Builtin::Pod)["spec"]["containers"]
            .as_array()
            .unwrap()
            .iter()
            .map(|container| container["name"].clone())
            .collect();
        assert_eq!(names, ["b", "a", "s"]);
    }

    #[test]
    fn a_keyed_element_without_its_key_is_refused() {
        let mut service = json!({});
        let patch = json!({"spec": {"ports": [{"name": "x"}]}});
        assert!(strategic(&mut service, &patch, Type::Object(Builtin::Service)).is_err());
    }

    proptest! {
        /// Where no list merges and no directive is used, it is a merge patch.
        #[test]
        fn without_keys_it_is_a_merge_patch(target in value(false), patch in value(true)) {
            let (target, patch) = (json!({"a": target}), json!({"a": patch}));
            let mut expected = target.clone();
            crate::patch::merge(&mut expected, &patch);
            let mut found = target;
            strategic(&mut found, &patch, Type::Plain).unwrap();
            prop_assert_eq!(found, expected);
        }

        #[test]
        fn applying_twice_is_applying_once(
            before in prop::collection::vec((1u16..5, 0u8..3), 0..4),
            patch in prop::collection::vec((1u16..5, 0u8..3, any::<bool>()), 0..4),
        ) {
            let ports: Vec<Value> = before.iter().map(|(p, n)| json!({"port": p, "name": n})).collect();
            let change: Vec<Value> = patch.iter().map(|(p, n, delete)| if *delete {
                json!({"port": p, "$patch": "delete"})
            } else {
                json!({"port": p, "name": n})
            }).collect();
            let patch = json!({"spec": {"ports": change}});
            let once = patched(json!({"spec": {"ports": ports}}), patch.clone(), Builtin::Service);
            let twice = patched(once.clone(), patch, Builtin::Service);
            prop_assert_eq!(once["spec"]["ports"].as_array().map(Vec::len), twice["spec"]["ports"].as_array().map(Vec::len));
        }
    }
}
