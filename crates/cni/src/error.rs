//! Errors in the spec's form: a code, a message, details.

use agent::{client, wire::FailureKind};
use serde_json::{Value, json};

use crate::SUPPORTED;

/// What went wrong, as the runtime is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Error {
    /// Of the spec's list; from 100 on the plugin's own.
    pub(crate) code: u32,
    pub(crate) message: String,
    pub(crate) details: String,
}

const INCOMPATIBLE_VERSION: u32 = 1;
const UNKNOWN_CONTAINER: u32 = 3;
const INVALID_ENVIRONMENT: u32 = 4;
const IO_FAILURE: u32 = 5;
const DECODING_FAILURE: u32 = 6;
const INVALID_CONFIGURATION: u32 = 7;
const TRY_AGAIN_LATER: u32 = 11;
/// For STATUS: no pod can be attached now.
const NOT_AVAILABLE: u32 = 50;
/// The node's kernel or disk refused.
const NODE_FAILURE: u32 = 100;

impl Error {
    fn new(code: u32, message: String) -> Self {
        Self { code, message, details: String::new() }
    }

    pub(crate) fn incompatible(version: &str) -> Self {
        let supported = SUPPORTED.join(", ");
        Self::new(
            INCOMPATIBLE_VERSION,
            format!("version {version} of the spec is not supported; supported are {supported}"),
        )
    }

    pub(crate) fn environment(message: String) -> Self {
        Self::new(INVALID_ENVIRONMENT, message)
    }

    pub(crate) fn io(message: String) -> Self {
        Self::new(IO_FAILURE, message)
    }

    pub(crate) fn decode(details: String) -> Self {
        Self { details, ..Self::new(DECODING_FAILURE, "decode the network configuration".into()) }
    }

    pub(crate) fn configuration(message: String) -> Self {
        Self::new(INVALID_CONFIGURATION, message)
    }

    pub(crate) fn not_available(error: client::Error) -> Self {
        Self { code: NOT_AVAILABLE, ..Self::from(error) }
    }

    pub(crate) fn to_json(&self, version: &str) -> Value {
        let mut object = json!({"cniVersion": version, "code": self.code, "msg": self.message});
        if !self.details.is_empty() {
            object["details"] = self.details.clone().into();
        }
        object
    }
}

impl From<client::Error> for Error {
    fn from(error: client::Error) -> Self {
        let code = match error.kind() {
            FailureKind::Invalid => INVALID_CONFIGURATION,
            FailureKind::NotFound => UNKNOWN_CONTAINER,
            FailureKind::Unavailable => TRY_AGAIN_LATER,
            FailureKind::Internal => NODE_FAILURE,
        };
        Self { details: error.source.to_string(), ..Self::new(code, error.to_string()) }
    }
}
