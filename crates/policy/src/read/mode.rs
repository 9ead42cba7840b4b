//! Whether policies of a pod are enforced, or audited only: an annotation of the pod, or else of its namespace. Pure.

use std::collections::BTreeMap;

use model::policy::Mode;

/// The annotation, on Pods and Namespaces: `audit` lets through what would be dropped, and tells of it.
pub const POLICY_ANNOTATION: &str = "twinplane.dev/policy";

/// What an object's annotations ask for; `None`: nothing.
///
/// # Errors
/// A word that is none of the two, which enforces: the reason.
pub fn mode(annotations: Option<&BTreeMap<String, String>>) -> Option<Result<Mode, String>> {
    let value = annotations?.get(POLICY_ANNOTATION)?;
    Some(match value.trim() {
        "audit" => Ok(Mode::Audit),
        "enforce" | "" => Ok(Mode::Enforce),
        other => {
            let shown: String = other.chars().take(40).collect();
            Err(format!("unknown mode {shown:?}: want audit or enforce"))
        }
    })
}
