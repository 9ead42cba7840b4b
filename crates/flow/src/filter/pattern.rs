//! Patterns in filters: RE2 expressions and globs over names. Matching is linear in the text whatever the pattern; what a
//! pattern may cost to build is limited here. Never backtracks.

use regex::{Regex, RegexBuilder};

/// The longest pattern, in bytes.
const MAX_LENGTH: usize = 4096;
/// The largest automaton of one pattern, and the most that matching may cache, in bytes.
const MAX_AUTOMATON: usize = 1 << 20;
/// The deepest nesting of groups.
const MAX_NESTING: u32 = 64;
/// The most patterns one request may have.
const MAX_PATTERNS: usize = 64;

/// The patterns that one request may still have.
#[derive(Debug)]
pub(super) struct Budget(usize);

impl Default for Budget {
    fn default() -> Self {
        Self(MAX_PATTERNS)
    }
}

impl Budget {
    /// A regular expression that may match anywhere in a text.
    pub(super) fn regex(&mut self, pattern: &str) -> Result<Regex, String> {
        if pattern.len() > MAX_LENGTH {
            return Err(format!("longer than {MAX_LENGTH} bytes"));
        }
        self.0 = self
            .0
            .checked_sub(1)
            .ok_or_else(|| format!("more than {MAX_PATTERNS} patterns in one request"))?;
        RegexBuilder::new(pattern)
            .size_limit(MAX_AUTOMATON)
            .dfa_size_limit(MAX_AUTOMATON)
            .nest_limit(MAX_NESTING)
            .build()
            .map_err(|error| match error {
                regex::Error::CompiledTooBig(limit) => format!("needs more than {limit} bytes"),
                // The parser's drawing of the place spans lines; its last one has the reason.
                error => error.to_string().lines().last().unwrap_or_default().replace("error: ", ""),
            })
    }
}

/// A name with `*` for any characters that a DNS name may have; case does not matter and neither does a final dot.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NameGlob(Vec<String>);

impl NameGlob {
    pub(super) fn parse(pattern: &str) -> Result<Self, String> {
        let pattern = canonical(pattern.trim());
        if pattern.is_empty() {
            return Err("empty pattern".into());
        }
        if pattern.ends_with('.') {
            return Err("multiple trailing dots in pattern".into());
        }
        if pattern.len() > MAX_LENGTH {
            return Err(format!("longer than {MAX_LENGTH} bytes"));
        }
        match pattern.chars().find(|c| !matches!(c, 'a'..='z' | '0'..='9' | '-' | '_' | '.' | '*')) {
            Some(bad) => Err(format!("{bad:?}: invalid rune in pattern")),
            None => Ok(Self(pattern.split('*').map(str::to_owned).collect())),
        }
    }

    /// Of names without their final dot.
    pub(super) fn matches(&self, name: &str) -> bool {
        let [first, middle @ .., last] = self.0.as_slice() else {
            return self.0.first().is_some_and(|only| only == name);
        };
        let Some(rest) = name.strip_prefix(first.as_str()).and_then(|rest| rest.strip_suffix(last.as_str()))
        else {
            return false;
        };
        // Leftmost places are as good as any: nothing after them is fixed but the end, which is cut off already.
        let mut left = rest;
        for part in middle {
            let Some(at) = left.find(part.as_str()) else { return false };
            left = &left[at + part.len()..];
        }
        true
    }
}

/// A name as it is compared: lower case, without one final dot.
pub(super) fn canonical(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

/// `[cluster/][node]`, each a glob; an empty part is any.
#[derive(Debug)]
pub(super) struct NodeGlob {
    cluster: Option<NameGlob>,
    node: Option<NameGlob>,
}

/// The cluster of a node whose name does not say it.
const DEFAULT_CLUSTER: &str = "default";

impl NodeGlob {
    pub(super) fn parse(pattern: &str) -> Result<Self, String> {
        let (cluster, node) = pattern.split_once('/').unwrap_or(("", pattern));
        if node.contains('/') {
            return Err("too many slashes in pattern".into());
        }
        if pattern.is_empty() {
            return Err("empty pattern".into());
        }
        let part = |part: &str| (!part.is_empty()).then(|| NameGlob::parse(part)).transpose();
        Ok(Self { cluster: part(cluster)?, node: part(node)? })
    }

    pub(super) fn matches(&self, name: &str) -> bool {
        let (cluster, node) = name.split_once('/').unwrap_or((DEFAULT_CLUSTER, name));
        let part =
            |glob: &Option<NameGlob>, text| glob.as_ref().is_none_or(|glob| glob.matches(&canonical(text)));
        part(&self.cluster, cluster) && part(&self.node, node)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs() {
        for (pattern, name, matches) in [
            ("a.b", "a.b", true),
            ("A.b.", "a.b", true),
            ("a.b", "a-b", false),
            ("*.cilium.io", "docs.cilium.io", true),
            ("*.cilium.io", "cilium.io", false),
            ("*", "anything.at.all", true),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "acb", false),
            ("a*a", "a", false),
            ("a*a", "aa", true),
            ("*ab*ab*", "xabyabz", true),
            ("*ab*ab*", "xabyz", false),
        ] {
            assert_eq!(NameGlob::parse(pattern).unwrap().matches(name), matches, "{pattern} on {name}");
        }
        for (pattern, reason) in [
            ("", "empty pattern"),
            (".", "empty pattern"),
            ("a..", "multiple trailing dots in pattern"),
            ("a b", "' ': invalid rune in pattern"),
        ] {
            assert_eq!(NameGlob::parse(pattern), Err(reason.to_owned()));
        }
    }

    #[test]
    fn nodes_have_a_cluster() {
        for (pattern, name, matches) in [
            ("vm", "vm", true),
            ("vm", "other/vm", true),
            ("default/vm", "vm", true),
            ("other/", "vm", false),
            ("other/", "other/vm", true),
            ("/vm*", "other/vm-1", true),
            ("o*/*.example.com", "other/vm.example.com", true),
            ("o*/*.example.com", "vm.example.com", false),
        ] {
            assert_eq!(NodeGlob::parse(pattern).unwrap().matches(name), matches, "{pattern} on {name}");
        }
        assert_eq!(NodeGlob::parse("a/b/c").unwrap_err(), "too many slashes in pattern");
        assert_eq!(NodeGlob::parse("").unwrap_err(), "empty pattern");
    }

    #[test]
    fn bombs_are_refused() {
        let mut budget = Budget::default();
        assert_eq!(budget.regex("((a{100}){100}){100}").unwrap_err(), "needs more than 1048576 bytes");
        assert!(budget.regex(&"(".repeat(200)).is_err());
        assert_eq!(budget.regex(&"a".repeat(5000)).unwrap_err(), "longer than 4096 bytes");
        // What backtracking would not survive is linear here.
        assert!(!budget.regex("^(a+)+$").unwrap().is_match(&format!("{}b", "a".repeat(100_000))));
        while budget.0 > 0 {
            budget.regex("a").unwrap();
        }
        assert_eq!(budget.regex("a").unwrap_err(), "more than 64 patterns in one request");
    }

    #[test]
    fn a_broken_expression_is_explained_on_one_line() {
        assert_eq!(Budget::default().regex("a(b").unwrap_err(), "unclosed group");
    }
}
