//! Facts, cases, generated clusters and seeded mistakes: each question goes to the oracle and to the compiled table.

mod cases;
mod engines;
mod facts_cluster;
mod facts_lifecycle;
mod facts_ports;
mod facts_selectors;
mod generate;
mod mutations;
mod property;
mod world;
