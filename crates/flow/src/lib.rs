//! Flows: Hubble's messages, the ring that keeps a node's flows, the filters, the lines, and the flags of `observe`.
//! Never opens a socket (that is `observer`), never decodes a packet (that is the plane), never reads a clock.
//!
//! ```text
//!  plane: decoded events ──► feed::Feed ──► ring ──► cursor::Cursor ──► wire: proto messages ──► observer, export
//!                                                      ▲ filter::Filters    ▲ mask::Mask
//!  request::ObserveArgs ──► GetFlowsRequest ───────────┘                    └──► print::Printer, json (the client)
//! ```
//!
//! # For whoever feeds it
//! - Make one [`feed::Feed`] per node with a [`ring::Capacity`] (2^n - 1) and give its [`readers`](feed::Feed::readers) to
//!   the server. Call [`append`](feed::Feed::append) with a batch: readers are woken once per batch, so a batch per
//!   ring-buffer read keeps wake-ups few under load and prompt when idle.
//! - Times must not go back within a ring: `since` and `until` stop at the first event beyond them.
//! - Share by `Arc` what flows have in common: one [`event::Endpoint`] per endpoint or identity, one [`event::Node`], one
//!   [`event::Service`] per Service, one [`event::Rules`] per deciding rule. An [`event::Event`] has at most 320 bytes
//!   (checked at compile time), so that a ring of 65,535 takes 20 MB.
//! - What was lost before the ring is an event too: [`event::Body::Lost`] with source `PERF_EVENT_RING_BUFFER` and the
//!   CPU (kernel to agent) or `OBSERVER_EVENTS_QUEUE` (between stages). It passes every filter. What slow readers lose
//!   is counted by [`ring::Ring::missed`] and told to each of them by its cursor, at most once per second.
//! - Direction, as Hubble has it: of a drop, egress if the local endpoint is the source, else ingress; of a trace,
//!   (source is local) xor reply. `is_reply` is `None` for drops and denied verdicts, `Some(false)` for allowed ones.
//!   A policy verdict is [`event::Seen::PolicyVerdict`]; the drop it leads to is a second event, [`event::Seen::Drop`].
//! - `drop_reason`, `reply`, `event_type`, `Type` and `Summary` are derived in `wire` and are not to be filled in.
//!
//! # Facts behind the messages
//! Field numbers, names and the order of fields (which is the order of JSON) are Hubble's, in `proto/`. JSON is made by
//! descriptor ([`json`]), because an enum number without a name must print as a number. The command asks for
//! [`request::HUBBLE_MASK`]; ours adds [`request::LINE_MASK`], so that a policy verdict's direction and match are shown.
//! CEL filters are refused by name; every other field of `FlowFilter` works.

pub mod cursor;
pub mod directory;
pub mod event;
pub mod feed;
pub mod filter;
pub mod input;
pub mod json;
mod l7;
pub mod mask;
pub mod metrics;
pub mod names;
mod prefixes;
pub mod print;
pub mod proto;
pub mod record;
pub mod request;
pub mod ring;
pub mod summary;
pub mod testing;
mod wire;
