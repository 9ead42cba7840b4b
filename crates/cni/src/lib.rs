//! The CNI plugin: talks to the agent's socket.

use std::process::ExitCode;

/// Acts as the CNI plugin when the runtime called this process as one (`CNI_COMMAND` is set).
pub fn run_if_called_as_plugin() -> Option<ExitCode> {
    None
}
