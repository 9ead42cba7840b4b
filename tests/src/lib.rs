//! The scenario harness: one topology, one table of cases, three executors.
