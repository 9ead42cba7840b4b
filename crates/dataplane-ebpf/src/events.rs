//! What the datapath tells of flows, as user space reads it. Never enriches, never blocks.

use std::{
    io,
    os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd, RawFd},
    path::Path,
    ptr,
    time::Duration,
};

use abi::{EVENT_VERSION, Event, EventCount, EventKind, EventLevel, L7Event};
use aya::maps::{Map, MapData, RingBuf};
use dataplane::Error;

use crate::{sys, tables};

/// The reading end of the ring. There must be one at a time: records that one reader takes, another never sees.
pub struct Events {
    ring: RingBuf<MapData>,
    counts: OwnedFd,
}

/// A record as it was taken from the ring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    Event(Event),
    /// What was said: the first bytes of a packet's payload.
    L7(L7Event, Vec<u8>),
    /// Written by a datapath of another version.
    Unknown {
        version: u8,
    },
}

impl Events {
    pub(crate) fn open(maps: &Path) -> Result<Self, Error> {
        let failed = |source: io::Error| Error::new("open pinned map", tables::EVENTS, source);
        let ring = MapData::from_pin(maps.join(tables::EVENTS)).map_err(|e| failed(io::Error::other(e)))?;
        Ok(Self {
            ring: RingBuf::try_from(Map::RingBuf(ring)).map_err(|e| failed(io::Error::other(e)))?,
            counts: sys::open_pinned(&maps.join(tables::EVENT_COUNTS)).map_err(failed)?,
        })
    }

    /// The next record; `None`: there is none now. The descriptor becomes readable when there is one again.
    pub fn take(&mut self) -> Option<Record> {
        let bytes = self.ring.next()?;
        let version = bytes.first().copied().unwrap_or_default();
        Some(match (version, bytes.get(1), read::<Event>(&bytes)) {
            (EVENT_VERSION, Some(kind), _) if *kind == EventKind::L7 as u8 => match read::<L7Event>(&bytes) {
                Some((event, payload)) => Record::L7(event, payload.to_vec()),
                None => Record::Unknown { version },
            },
            (EVENT_VERSION, _, Some((event, []))) => Record::Event(event),
            _ => Record::Unknown { version },
        })
    }

    /// How many records of each kind were offered and lost on each CPU, since the maps were made.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn counts(&self) -> Result<Vec<(EventKind, Vec<EventCount>)>, Error> {
        let failed = |source| Error::new("read map", tables::EVENT_COUNTS, source);
        let cpus = aya::util::nr_cpus().map_err(|(_, error)| failed(error))?;
        let count = |kind: EventKind| {
            let mut counts = vec![EventCount::default(); cpus];
            sys::lookup(self.counts.as_fd(), &(kind as u32), &mut counts).map_err(failed)?;
            Ok((kind, counts))
        };
        EventKind::ALL.into_iter().map(count).collect()
    }
}

/// A record's head and what follows it.
fn read<T: aya::Pod>(bytes: &[u8]) -> Option<(T, &[u8])> {
    let (head, rest) = bytes.split_at_checked(size_of::<T>())?;
    // SAFETY: as many bytes as a `T` has, of which every pattern is one; read without regard to alignment.
    Some((unsafe { ptr::read_unaligned(head.as_ptr().cast::<T>()) }, rest))
}

impl AsFd for Events {
    fn as_fd(&self) -> BorrowedFd<'_> {
        let descriptor: RawFd = self.ring.as_raw_fd();
        // SAFETY: the ring's own descriptor, which lives as long as `self`.
        unsafe { BorrowedFd::borrow_raw(descriptor) }
    }
}

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Events").finish_non_exhaustive()
    }
}

/// How much the datapath tells of flows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Telling {
    #[default]
    Nothing,
    /// When a direction of a flow begins, every so often while it goes on, and when it ends.
    Flows { every: Duration },
    /// Every packet but bare acknowledgements of TCP. No packet takes the fast path.
    Substance,
    /// Every packet. None takes the fast path.
    Packets,
}

impl Telling {
    /// As the datapath is configured: the level, and the interval in units of [`abi::coarse`], which is at least one and at most
    /// half of what that clock counts.
    pub(crate) fn configured(self, hz: u32) -> (EventLevel, u32) {
        const NEVER: u32 = u32::MAX;
        match self {
            Self::Nothing => (EventLevel::Off, NEVER),
            Self::Flows { every } => {
                let units = every.as_millis() * u128::from(hz) / 1000 / 256;
                (EventLevel::Flows, units.clamp(1, 0x7fff) as u32)
            }
            Self::Substance => (EventLevel::Substance, 0),
            Self::Packets => (EventLevel::Packets, 0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_whole_units_and_never_off_by_accident() {
        let interval = |every, hz| Telling::Flows { every }.configured(hz);
        assert_eq!(Telling::Nothing.configured(250), (EventLevel::Off, u32::MAX));
        assert_eq!(interval(Duration::ZERO, 250), (EventLevel::Flows, 1));
        assert_eq!(interval(Duration::from_secs(5), 1000), (EventLevel::Flows, 19));
        assert_eq!(interval(Duration::from_secs(5), 250), (EventLevel::Flows, 4));
        assert_eq!(interval(Duration::from_secs(1_000_000), 1000), (EventLevel::Flows, 0x7fff));
        assert_eq!(Telling::Packets.configured(250), (EventLevel::Packets, 0));
    }
}
