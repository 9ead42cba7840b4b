//! The layers traced side by side: captures, comparison, report page.

pub mod attempt;
pub mod cli;
pub mod compare;
pub mod normalise;
pub mod page;
pub mod report;
