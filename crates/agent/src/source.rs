//! Where a plane's records of flows come from, and as what they are read. Never stores, never waits.

use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
};

use dataplane_ebpf::{Events, Record};
use dataplane_iptables::{Heard, Telling};
use flow::{
    directory::Directory,
    event::{Event, Time},
    metrics::KernelEvents,
    record::{Decoder, Losses},
};

/// Each plane's own.
#[derive(Debug)]
pub enum Source {
    /// The programs' ring.
    Ring(Events),
    /// What the kernel tells by itself.
    Kernel(Telling),
}

/// What became of a record.
pub(crate) enum Taken {
    /// As many flows as it tells of are there; none where it is of no interest.
    Read,
    Unreadable,
}

/// The clocks that records are read with.
#[derive(Clone, Copy)]
pub(crate) struct Clocks {
    pub(crate) now: Time,
    /// When the clock of the programs' records began.
    pub(crate) boot: Time,
}

impl Source {
    /// What to wait for where there is no record.
    pub(crate) fn descriptors(&self) -> io::Result<Vec<OwnedFd>> {
        match self {
            Self::Ring(events) => Ok(vec![events.as_fd().try_clone_to_owned()?]),
            Self::Kernel(telling) => telling.descriptors().iter().map(|fd| fd.try_clone_to_owned()).collect(),
        }
    }

    /// Adds the next record's flows to `into`; `None`: there is no record now.
    pub(crate) fn take(
        &mut self,
        decoder: &mut Decoder,
        directory: &Directory,
        clocks: Clocks,
        into: &mut Vec<Event>,
    ) -> io::Result<Option<Taken>> {
        let taken = match self {
            Self::Ring(events) => events.take().map(|record| match record {
                Record::Event(event) => decoder
                    .decode(&event, directory, clocks.boot, into)
                    .map_or_else(unreadable, |()| Taken::Read),
                Record::L7(event, payload) => decoder
                    .decode_l7(&event, &payload, directory, clocks.boot)
                    .map_or_else(unreadable, |flows| {
                        into.extend(flows);
                        Taken::Read
                    }),
                Record::Unknown { version } => {
                    unreadable(format_args!("read record: unknown version {version}"))
                }
            }),
            Self::Kernel(telling) => telling.take()?.map(|heard| match heard {
                Heard::Told(told) => {
                    into.extend(decoder.decode_told(&told, directory, clocks.now));
                    Taken::Read
                }
                Heard::Unknown => unreadable("read packet: logged by no rule of this plane"),
            }),
        };
        Ok(taken)
    }

    /// What was lost since the last call; the programs' own counts go to `shown`.
    pub(crate) fn losses(&mut self, losses: &mut Losses, shown: &KernelEvents, now: Time) -> Vec<Event> {
        match self {
            Self::Ring(events) => match events.counts() {
                Ok(counts) => {
                    shown.set(&counts);
                    return losses.of_kernel(&counts, now);
                }
                Err(error) => tracing::warn!("{}", error.with_causes()),
            },
            Self::Kernel(telling) => match telling.lost() {
                Ok(lost) => return losses.of_sockets(lost, now).into_iter().collect(),
                Err(error) => tracing::warn!(%error, "cannot ask for lost events"),
            },
        }
        vec![]
    }
}

fn unreadable(why: impl std::fmt::Display) -> Taken {
    tracing::debug!("{why}");
    Taken::Unreadable
}
