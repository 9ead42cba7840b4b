//! Mistakes made on purpose: each is noticed.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::property;
use crate::mutation::{Bug, with};

fn is_noticed(check: impl FnOnce()) -> bool {
    catch_unwind(AssertUnwindSafe(check)).is_err()
}

#[test]
fn every_seeded_mistake_is_noticed() {
    for bug in Bug::ALL {
        let noticed = with(bug, || {
            (0..40).any(|seed| is_noticed(|| _ = property::compare(seed)))
                || (0..20).any(|seed| is_noticed(|| property::replay(seed, 30)))
        });
        assert!(noticed, "{bug:?}");
    }
}
