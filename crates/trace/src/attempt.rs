//! One HTTP request as a client lived it, and the row that shows it: written and read by the same code,
//! so that the page, the facts and the comparison all come from the captured rows.

use std::{fmt, str::FromStr};

/// One request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// Milliseconds from the start of the series.
    pub at_ms: u64,
    /// Microseconds until the answer or the error.
    pub took_us: u64,
    pub outcome: Outcome,
}

/// How a request ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// An HTTP answer.
    Answered {
        status: u16,
        /// The client address that the pod saw, as it told; empty where it did not.
        client: String,
    },
    /// curl's exit status (curl(1), EXIT CODES).
    Failed { exit: i32 },
}

impl Attempt {
    /// Answered with success.
    pub fn ok(&self) -> bool {
        matches!(self.outcome, Outcome::Answered { status: 200..=299, .. })
    }

    /// The rows of `output`, in order; lines that are not rows are passed over.
    pub fn rows(output: &str) -> Vec<Self> {
        output.lines().filter_map(|line| line.parse().ok()).collect()
    }
}

impl Outcome {
    /// In words, as a row shows it.
    pub fn words(&self) -> String {
        match self {
            Self::Answered { status, client } if client.is_empty() => format!("{status}"),
            Self::Answered { status, client } => format!("{status} client={client}"),
            Self::Failed { exit: 7 } => "--- refused (curl: 7)".into(),
            Self::Failed { exit: 28 } => "--- timed out (curl: 28)".into(),
            Self::Failed { exit: 52 } => "--- empty answer (curl: 52)".into(),
            Self::Failed { exit: 56 } => "--- reset (curl: 56)".into(),
            Self::Failed { exit } => format!("--- failed (curl: {exit})"),
        }
    }
}

/// `+  12.345 s  took     0.412 ms  200 client=198.51.100.10`
impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (at, took) = (Thousandths(self.at_ms), Thousandths(self.took_us));
        write!(f, "+{at:>8} s  took {took:>8} ms  {}", self.outcome.words())
    }
}

impl FromStr for Attempt {
    type Err = NotARow;

    fn from_str(line: &str) -> Result<Self, NotARow> {
        parse_row(line).ok_or(NotARow)
    }
}

/// A line that is no request's row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("parse a request's row")]
pub struct NotARow;

fn parse_row(line: &str) -> Option<Attempt> {
    let (at, rest) = line.strip_prefix('+')?.split_once(" s  took ")?;
    let (took, words) = rest.split_once(" ms  ")?;
    let outcome = match words.strip_prefix("--- ") {
        Some(failure) => {
            let exit = failure.rsplit_once("(curl: ")?.1.strip_suffix(')')?.parse().ok()?;
            Outcome::Failed { exit }
        }
        None => {
            let (status, client) = words.split_once(" client=").unwrap_or((words, ""));
            Outcome::Answered { status: status.parse().ok()?, client: client.to_owned() }
        }
    };
    Some(Attempt { at_ms: thousandths(at)?, took_us: thousandths(took)?, outcome })
}

/// Thousandths of a unit shown as that unit with three decimals.
struct Thousandths(u64);

impl fmt::Display for Thousandths {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}.{:03}", self.0 / 1000, self.0 % 1000))
    }
}

/// `1.234` as 1234.
fn thousandths(text: &str) -> Option<u64> {
    let (whole, fraction) = text.trim().split_once('.')?;
    if fraction.len() != 3 || !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    whole.parse::<u64>().ok()?.checked_mul(1000)?.checked_add(fraction.parse().ok()?)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_row_reads_back_as_written(
            at_ms in 0..10_000_000_u64,
            took_us in 0..100_000_000_u64,
            outcome in prop_oneof![
                (100..600_u16, prop_oneof![Just(String::new()), "[0-9]{1,3}(\\.[0-9]{1,3}){3}", "[0-9a-f:]{2,20}"])
                    .prop_map(|(status, client)| Outcome::Answered { status, client }),
                (0..100_i32).prop_map(|exit| Outcome::Failed { exit }),
            ],
        ) {
            let attempt = Attempt { at_ms, took_us, outcome };
            prop_assert_eq!(attempt.to_string().parse::<Attempt>(), Ok(attempt));
        }

        #[test]
        fn no_line_makes_the_reader_panic(line in ".*") {
            let _ = line.parse::<Attempt>();
        }
    }

    #[test]
    fn a_refusal_and_a_timeout_are_told_apart() {
        let rows = Attempt::rows(
            "+   0.000 s  took    2.050 ms  200 client=198.51.100.10\n\
             +   0.250 s  took   11.000 ms  --- refused (curl: 7)\n\
             # not a row\n\
             +   0.500 s  took 6001.204 ms  --- timed out (curl: 28)\n\
             +   7.000 s  took    1.000 ms  503\n",
        );
        assert_eq!(rows.iter().map(Attempt::ok).collect::<Vec<_>>(), [true, false, false, false]);
        assert_eq!(rows[1].outcome, Outcome::Failed { exit: 7 });
        assert_eq!(rows[2].took_us, 6_001_204);
    }
}
