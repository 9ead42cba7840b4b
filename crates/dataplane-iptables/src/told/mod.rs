//! What connection tracking and logging rules tell of flows, as it comes, with a count of what was lost. Never names, never
//! blocks, never changes a rule.
//!
//! Two sockets, so that neither a flood of refused packets nor one of new flows costs the other its room.

mod stopped;
#[cfg(test)]
mod tests;
mod tracked;
pub(crate) mod tuple;
mod unseen;

use std::{
    collections::VecDeque,
    io,
    num::NonZeroU16,
    os::fd::{AsFd as _, BorrowedFd},
};

use dataplane::Error;
use model::told::Told;

pub(crate) use unseen::unseen;

use crate::{kernel::listen::Listener, policy::named::RuleNames};

/// With what flows are told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TellingConfig {
    /// The NFLOG group of the rules that log, which no other program of the network namespace may use.
    pub group: NonZeroU16,
    /// Room for what was told and not read yet, in bytes, for each of both sockets.
    pub room: usize,
}

impl TellingConfig {
    /// The port of Hubble's servers, for want of a registry.
    pub const DEFAULT_GROUP: NonZeroU16 = NonZeroU16::new(4244).expect("not 0");
}

impl Default for TellingConfig {
    /// Room for some 20,000 events (the kernel doubles it, and charges 800 bytes for one): what 10,000 new TCP flows a second tell of
    /// in 300 ms.
    fn default() -> Self {
        Self { group: Self::DEFAULT_GROUP, room: 8 << 20 }
    }
}

/// The reading end.
pub struct Telling {
    tracking: Listener,
    log: Listener,
    numbers: Numbers,
    rules: RuleNames,
    /// Read and not taken yet.
    heard: VecDeque<Heard>,
}

/// What was taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    Told(Told),
    /// A packet in our group that no rule of ours logged.
    Unknown,
}

impl Telling {
    /// For the network namespace of the calling thread. `rules`: what logs call them.
    pub(crate) fn open(config: TellingConfig, rules: RuleNames) -> Result<Self, Error> {
        let tracking = Listener::tracking(config.room)
            .map_err(|error| Error::new("listen to", "connection tracking", error))?;
        let log = Listener::log(config.group, config.room)
            .map_err(|error| Error::new("listen to", format!("NFLOG group {}", config.group), error))?;
        Ok(Self { tracking, log, numbers: Numbers::default(), rules, heard: VecDeque::new() })
    }

    /// The next thing; `None`: there is none now. One of the [`Self::descriptors`] becomes readable when there is again.
    ///
    /// # Errors
    /// A socket is broken.
    pub fn take(&mut self) -> io::Result<Option<Heard>> {
        while self.heard.is_empty() {
            let Self { tracking, log, numbers, rules, heard } = self;
            // One datagram of each in turn: neither waits for the other.
            let tracked = tracking.receive(|message| {
                heard.extend(tracked::read(message).map(|tracked| Heard::Told(Told::Tracked(tracked))));
            })?;
            let logged = log.receive(|message| {
                if message.kind == stopped::PACKET {
                    let logged = stopped::read(message, |digest| rules.digested(digest));
                    logged.sequence.into_iter().for_each(|number| numbers.note(number));
                    let told = logged.stopped.map(|stopped| Heard::Told(Told::Stopped(stopped)));
                    heard.push_back(told.unwrap_or(Heard::Unknown));
                }
            })?;
            if !tracked && !logged {
                return Ok(None);
            }
        }
        Ok(self.heard.pop_front())
    }

    /// How much the kernel had to tell and found no room for, since this was opened.
    ///
    /// # Errors
    /// The kernel does not say.
    pub fn lost(&mut self) -> io::Result<u64> {
        // Either alone is too few: numbers do not show what was lost last, and the socket's count not what the kernel
        // itself had no memory for.
        let logged = self.log.lost()?.max(self.numbers.missing);
        Ok(self.tracking.lost()? + logged)
    }

    /// What to wait for.
    pub fn descriptors(&self) -> [BorrowedFd<'_>; 2] {
        [self.tracking.as_fd(), self.log.as_fd()]
    }
}

impl std::fmt::Debug for Telling {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Telling").field("numbers", &self.numbers).finish_non_exhaustive()
    }
}

/// Finds gaps in numbers that count up from 0, modulo 2^32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Numbers {
    next: u32,
    missing: u64,
}

impl Numbers {
    fn note(&mut self, number: u32) {
        let gap = number.wrapping_sub(self.next);
        // Beyond half the range it is a number from before.
        if gap <= u32::MAX / 2 {
            self.missing += u64::from(gap);
        }
        self.next = number.wrapping_add(1);
    }
}
