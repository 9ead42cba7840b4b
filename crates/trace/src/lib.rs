//! The layers traced side by side: captures, comparison, report page.

pub mod cli;
