//! What a URL path names. Never checks that it exists.

/// A resource path under `/api/v1` or `/apis/<group>/<version>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) group: String,
    pub(crate) version: String,
    /// None in paths over all namespaces and for cluster-wide kinds.
    pub(crate) namespace: Option<String>,
    pub(crate) plural: String,
    pub(crate) name: Option<String>,
    pub(crate) subresource: Option<String>,
}

/// What a path under `/api` or `/apis` asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Path {
    /// `/api`
    CoreVersions,
    /// `/apis`
    Groups,
    /// `/apis/<group>`
    Group(String),
    /// `/api/v1` or `/apis/<group>/<version>`
    Resources {
        group: String,
        version: String,
    },
    Target(Target),
}

/// Parses a URL path; none if it has no meaning here.
pub(crate) fn parse(path: &str) -> Option<Path> {
    let segments: Vec<&str> = path.split('/').filter(|segment| !segment.is_empty()).collect();
    match segments.as_slice() {
        ["api"] => Some(Path::CoreVersions),
        ["apis"] => Some(Path::Groups),
        ["apis", group] => Some(Path::Group((*group).to_owned())),
        ["api", version] => Some(Path::Resources { group: String::new(), version: (*version).to_owned() }),
        ["apis", group, version] => {
            Some(Path::Resources { group: (*group).to_owned(), version: (*version).to_owned() })
        }
        ["api", version, rest @ ..] => target("", version, rest),
        ["apis", group, version, rest @ ..] => target(group, version, rest),
        _ => None,
    }
}

fn target(group: &str, version: &str, rest: &[&str]) -> Option<Path> {
    let (namespace, rest) = match rest {
        // `namespaces/x/status` is a Namespace's own subresource, not a resource named "status".
        ["namespaces", _, "status"] => (None, rest),
        ["namespaces", namespace, rest @ ..] if !rest.is_empty() => (Some(*namespace), rest),
        rest => (None, rest),
    };
    let (plural, name, subresource) = match rest {
        [plural] => (plural, None, None),
        [plural, name] => (plural, Some(name), None),
        [plural, name, subresource] => (plural, Some(name), Some(subresource)),
        _ => return None,
    };
    Some(Path::Target(Target {
        group: group.to_owned(),
        version: version.to_owned(),
        namespace: namespace.map(str::to_owned),
        plural: (*plural).to_owned(),
        name: name.map(|name| (*name).to_owned()),
        subresource: subresource.map(|name| (*name).to_owned()),
    }))
}

#[cfg(test)]
mod tests {
    use super::{Path, parse};

    #[test]
    fn paths() {
        let shown = |path: &str| match parse(path) {
            Some(Path::Target(t)) => format!(
                "{}/{} {:?} {} {:?} {:?}",
                t.group, t.version, t.namespace, t.plural, t.name, t.subresource
            ),
            other => format!("{other:?}"),
        };
        for (path, expected) in [
            ("/api", "Some(CoreVersions)"),
            ("/apis/", "Some(Groups)"),
            ("/api/v1/pods", "/v1 None pods None None"),
            ("/api/v1/namespaces", "/v1 None namespaces None None"),
            ("/api/v1/namespaces/x", "/v1 None namespaces Some(\"x\") None"),
            ("/api/v1/namespaces/x/status", "/v1 None namespaces Some(\"x\") Some(\"status\")"),
            ("/api/v1/namespaces/x/pods", "/v1 Some(\"x\") pods None None"),
            ("/api/v1/namespaces/x/pods/p/status", "/v1 Some(\"x\") pods Some(\"p\") Some(\"status\")"),
            (
                "/apis/apps/v1/namespaces/x/deployments/d/scale",
                "apps/v1 Some(\"x\") deployments Some(\"d\") Some(\"scale\")",
            ),
            ("/api/v1/namespaces/x/pods/p/a/b", "None"),
            ("/metrics", "None"),
        ] {
            assert_eq!(shown(path), expected, "{path}");
        }
    }
}
