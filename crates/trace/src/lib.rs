//! The layers traced side by side: captures, comparison, report page.
//!
//! ```text
//! cli ── labs: up or open ── run: per layer, both planes at once ── compare ── report ── page
//!                                  layers ── bench ── a running lab      normalise      trace.json, index.html
//! ```
//!
//! Never touches a dataplane: it looks at two labs as an operator would. Everything right of `run` is pure.

pub mod account;
pub mod attempt;
pub mod bench;
pub mod cli;
pub mod command;
pub mod compare;
pub mod counters;
pub mod flowline;
pub mod hooks;
pub mod labs;
pub mod layers;
pub mod normalise;
pub mod page;
pub mod report;
pub mod requests;
pub mod ruleset;
pub mod run;
pub mod subject;
