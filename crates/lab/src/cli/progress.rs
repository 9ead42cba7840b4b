//! Tells how far `lab up` is: a line per lab that moves on a terminal, plain lines elsewhere. Ctrl-C calls it off.

use std::{
    collections::BTreeMap,
    io::{self, IsTerminal as _},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::shared::on_interrupt;
use crate::{plan::LabName, up::Progress};

/// Progress of any number of labs at once.
#[derive(Debug)]
pub(super) struct Terminal {
    begun: Instant,
    cancelled: Arc<AtomicBool>,
    bars: MultiProgress,
    lines: Mutex<BTreeMap<LabName, Line>>,
    moving: bool,
}

#[derive(Debug)]
struct Line {
    bar: ProgressBar,
    step: String,
}

impl Terminal {
    /// Also starts to listen for Ctrl-C and SIGTERM.
    ///
    /// # Errors
    /// Signals cannot be listened for.
    pub(super) fn new() -> io::Result<Self> {
        let cancelled = Arc::new(AtomicBool::new(false));
        let interrupted = Arc::clone(&cancelled);
        on_interrupt(move || interrupted.store(true, Ordering::Relaxed))?;
        Ok(Self {
            begun: Instant::now(),
            cancelled,
            bars: MultiProgress::new(),
            lines: Mutex::default(),
            moving: io::stderr().is_terminal(),
        })
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }

    /// Leaves the terminal as it was.
    pub(super) fn finish(&self) {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.values().for_each(|line| line.bar.finish_and_clear());
    }

    fn show(&self, lab: &LabName, step: Option<&str>, waiting: Option<&str>) {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let line =
            lines.entry(lab.clone()).or_insert_with(|| Line { bar: self.bar(lab), step: String::new() });
        if let Some(step) = step {
            step.clone_into(&mut line.step);
        }
        line.bar.set_message(match waiting {
            Some(waiting) => format!("{}: {waiting}", line.step),
            None => line.step.clone(),
        });
    }

    fn bar(&self, lab: &LabName) -> ProgressBar {
        let bar = self.bars.add(ProgressBar::new_spinner());
        let style = ProgressStyle::with_template("{spinner} {prefix} {elapsed} {wide_msg}");
        if let Ok(style) = style {
            bar.set_style(style);
        }
        bar.set_prefix(lab.to_string());
        bar.enable_steady_tick(Duration::from_millis(100));
        bar
    }
}

impl Progress for Terminal {
    fn step(&self, lab: &LabName, step: &str) {
        if self.moving {
            self.show(lab, Some(step), None);
        } else {
            eprintln!("{:6.2} s  {lab}: {step}", self.begun.elapsed().as_secs_f64());
        }
    }

    fn waiting(&self, lab: &LabName, what: &str) {
        if self.moving {
            self.show(lab, None, Some(what));
        }
    }

    fn cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }
}
