//! What every command that brings labs up needs: durations as arguments, Ctrl-C, a lab's failure in words.

use std::{io, time::Duration};

use tokio::signal::unix::{SignalKind, signal};

use crate::up;

/// Parses an argument like `8s`, `500ms` or `2m`.
///
/// # Errors
/// What is wanted instead, in words for the user.
pub fn duration(text: &str) -> Result<Duration, String> {
    let unit = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let wrong = || format!("{text:?}: want a number and ms, s or m, as in 8s");
    let number: u64 = text[..unit].parse().map_err(|_| wrong())?;
    let duration = match &text[unit..] {
        "ms" => Duration::from_millis(number),
        "s" => Duration::from_secs(number),
        "m" => Duration::from_secs(number.checked_mul(60).ok_or_else(wrong)?),
        _ => return Err(wrong()),
    };
    if duration.is_zero() { Err(format!("{text:?}: want more than nothing")) } else { Ok(duration) }
}

/// Calls `then` on a thread of its own at the first Ctrl-C or SIGTERM, which end the process no more.
///
/// # Errors
/// Signals cannot be listened for.
pub fn on_interrupt(then: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut interrupt, mut terminate) = {
        let _inside = runtime.enter();
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
    };
    std::thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        });
        then();
    });
    Ok(())
}

/// The error and its causes in one line on stderr; what helps, after a blank one.
pub fn report(error: &up::Error) {
    let causes = std::iter::successors(std::error::Error::source(error), |cause| cause.source());
    let text = causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"));
    eprintln!("error: {text}");
    if let Some(log) = &error.log {
        eprintln!("\n  {log}");
    }
    if let Some(left) = &error.left {
        eprintln!(
            "\n  not everything could be removed, run: twinplane lab down --name {}\n  {left}",
            error.lab
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_need_a_unit() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        for wrong in ["8", "s", "-1s", "1h", "0s", ""] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }
}
