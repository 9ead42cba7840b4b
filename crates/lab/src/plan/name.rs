//! The name of a lab: what it may be, and which namespaces it marks as the lab's own. Pure.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// Names are given to namespaces as `tpl-<lab>-<place>`.
const PREFIX: &str = "tpl";

/// The name of one lab: it becomes part of namespace, file and cgroup names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LabName(String);

/// A lab name that cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("lab name {0:?}: want 1 to 32 characters a-z, 0-9 and '-', first and last no '-'")]
pub struct InvalidName(String);

impl LabName {
    /// # Errors
    /// Not a name that files and namespaces can carry.
    pub fn new(name: impl Into<String>) -> Result<Self, InvalidName> {
        let name = name.into();
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        let sound = (1..=32).contains(&name.len())
            && name.chars().all(allowed)
            && !name.starts_with('-')
            && !name.ends_with('-');
        if sound { Ok(Self(name)) } else { Err(InvalidName(name)) }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether `namespace` belongs to the lab of this name, whatever its size was.
    ///
    /// The last part decides: `tpl-x-node-b-client` is of lab `x-node-b`, never of `x`.
    pub fn owns_namespace(&self, namespace: &str) -> bool {
        let Some(place) = namespace.strip_prefix(&self.namespace("")) else { return false };
        match place.split_once('-') {
            None => matches!(place, "client" | "edge"),
            Some(("node", letter)) => letter.len() == 1 && letter.chars().all(|c| c.is_ascii_lowercase()),
            Some(("pod", id)) => id.len() == 8 && id.chars().all(|c| c.is_ascii_hexdigit()),
            Some(_) => false,
        }
    }

    /// Of one of its places.
    pub(super) fn namespace(&self, place: &str) -> String {
        format!("{PREFIX}-{self}-{place}")
    }
}

impl fmt::Display for LabName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for LabName {
    type Err = InvalidName;

    fn from_str(s: &str) -> Result<Self, InvalidName> {
        Self::new(s)
    }
}

impl TryFrom<String> for LabName {
    type Error = InvalidName;

    fn try_from(s: String) -> Result<Self, InvalidName> {
        Self::new(s)
    }
}

impl From<LabName> for String {
    fn from(name: LabName) -> Self {
        name.0
    }
}
