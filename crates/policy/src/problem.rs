//! What is wrong with a policy: said with object, field and reason.

use std::fmt;

use model::policy::PolicyName;

/// Why a part of a policy does not do what is written. The rest of it does.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    pub object: PolicyName,
    /// Path of the field at fault, as "spec.ingress\[0\].from\[1\]".
    pub field: String,
    /// Lower case, without the object and the field.
    pub reason: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.object, self.field, self.reason)
    }
}

/// Collects the problems of one object while it is read.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) object: PolicyName,
    pub(crate) problems: Vec<Problem>,
}

impl Report {
    pub(crate) fn add(&mut self, field: impl Into<String>, reason: impl Into<String>) {
        let (object, field, reason) = (self.object.clone(), field.into(), reason.into());
        self.problems.push(Problem { object, field, reason });
    }
}
