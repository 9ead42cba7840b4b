//! Runs executors over generated states, and shrinks what differs.

use std::collections::BTreeMap;

use proptest::{
    strategy::{Strategy as _, ValueTree as _},
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};

use crate::{
    compare::Difference,
    executor::{Executor, Stop},
    generate,
    state::{Case, Found},
    tally::Tally,
};

/// Steps of shrinking; each runs the failing executor once.
const SHRINK_STEPS: usize = 2000;
const SLOW_SHRINK_STEPS: usize = 30;

/// What a run compared, and what differs.
#[derive(Debug, Default)]
pub struct Outcome {
    pub tallies: BTreeMap<&'static str, Tally>,
    /// Shrunk, in order of finding.
    pub differences: Vec<Case>,
}

impl Outcome {
    /// Puts one case to one executor and counts it.
    ///
    /// # Errors
    /// As [`Executor::check`].
    pub fn check(&mut self, executor: &mut dyn Executor, case: &Case) -> Result<(), Stop> {
        let tally = self.tallies.entry(executor.name()).or_default();
        tally.states += 1;
        tally.transitions += u64::from(case.before.is_some());
        executor.check(case, tally)
    }

    /// Generates state `number` of `seed` and puts it to all executors; a difference is shrunk and kept.
    ///
    /// # Errors
    /// An executor failed by itself.
    pub fn generated(
        &mut self,
        (seed, number): (u64, u64),
        executors: &mut [Box<dyn Executor>],
    ) -> anyhow::Result<()> {
        let mut runner = runner(seed, number);
        let tree = generate::plan().new_tree(&mut runner).map_err(|reason| anyhow::anyhow!("{reason}"))?;
        let case = tree.current().case();
        for executor in executors {
            match self.check(&mut **executor, &case) {
                Ok(()) => {}
                Err(Stop::Error(error)) => return Err(error),
                Err(Stop::Difference(difference)) => {
                    let tree = generate::plan().new_tree(&mut self::runner(seed, number));
                    let tree = tree.map_err(|reason| anyhow::anyhow!("{reason}"))?;
                    let shrunk = shrink(tree, &mut **executor, difference);
                    self.differences.push(with_difference(shrunk, seed));
                }
            }
        }
        Ok(())
    }
}

/// Each state has randomness of its own, so that it is the same whatever ran before it.
fn runner(seed: u64, number: u64) -> TestRunner {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    bytes[8..16].copy_from_slice(&number.to_le_bytes());
    let config = Config { failure_persistence: None, ..Config::default() };
    TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes))
}

pub(crate) fn with_difference((case, difference): (Case, Difference), seed: u64) -> Case {
    let Difference { executor, probe, wanted, got } = difference;
    let found = Found { executor: executor.to_owned(), probe, wanted, got, seed };
    Case { found: Some(found), ..case }
}

/// The smallest state found that still differs, whatever the difference.
fn shrink(
    mut tree: impl proptest::strategy::ValueTree<Value = generate::Plan>,
    executor: &mut dyn Executor,
    difference: Difference,
) -> (Case, Difference) {
    let steps = if executor.is_slow() { SLOW_SHRINK_STEPS } else { SHRINK_STEPS };
    let mut smallest = (tree.current().case(), difference);
    let mut smaller = tree.simplify();
    for _ in 0..steps {
        if !smaller {
            break;
        }
        let case = tree.current().case();
        smaller = match executor.check(&case, &mut Tally::default()) {
            Err(Stop::Difference(difference)) => {
                smallest = (case, difference);
                tree.simplify()
            }
            Ok(()) | Err(Stop::Error(_)) => tree.complicate(),
        };
    }
    smallest
}
