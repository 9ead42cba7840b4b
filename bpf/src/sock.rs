//! Socket load balancing: a backend is chosen once, when a program connects, before there is a packet.
//!
//! `connect` serves TCP and connected UDP; `sendmsg` serves datagrams of sockets that are not connected, and `recvmsg` gives
//! their answers the source that was written to; `getpeername` shows what was connected to. An IPv6 socket that names an IPv4
//! address in its mapped form (RFC 4291, section 2.5.5.2) is served as IPv4: [`Place`].
//!
//! Invariant: [`decide`] never gives a client what the packet path would not, a backend that is given itself aside. What
//! cannot be decided before there is a packet is left to the packet path.

mod call;
mod decide;
mod state;

use abi::{Backend, Be16, EventKind, Point, Reason, SocketCall, protocol};

pub use self::call::{Call, InIpv4, InIpv6, Mapped, Place};
use self::{
    decide::{Decision, Offer},
    state::State,
};
use crate::{
    counters,
    events::call::{self as told, Ends, What},
};

/// The hook's answer: the call goes on.
pub const GO_ON: i32 = 1;
/// The call ends, by `EPERM` where no other error was set.
const STOP: i32 = 0;

const EPERM: i32 = 1;
const ETIMEDOUT: i32 = 110;
const ECONNREFUSED: i32 = 111;

/// connect(2), of a stream or a datagram socket.
#[inline(always)]
pub fn connect<P: Place>(call: Call) -> i32 {
    let (address, port) = (P::address(call), call.port());
    match decide::decide::<P::Family>(call, address, port) {
        Decision::Offer(offer) => {
            let mut backend = Backend::default();
            if !decide::choose::<P::Family>(call, &offer, &mut backend) {
                return as_it_is::<P>(call);
            }
            P::State::connect(call, (address, port), &backend);
            translate::<P>(call, &backend, true)
        }
        Decision::None => {
            P::State::forget(call);
            GO_ON
        }
        Decision::Left => as_it_is::<P>(call),
        Decision::Refused => stop::<P>(call, SocketCall::Refused, ECONNREFUSED),
        // What waiting for answers to packets that are dropped would end in.
        Decision::Denied if call.protocol() == protocol::TCP => {
            stop::<P>(call, SocketCall::Denied, ETIMEDOUT)
        }
        Decision::Denied => stop::<P>(call, SocketCall::Denied, EPERM),
    }
}

/// sendto(2) and its kin, of a datagram socket, to an address.
#[inline(always)]
pub fn sendmsg<P: Place>(call: Call) -> i32 {
    let (address, port) = (P::address(call), call.port());
    match decide::decide::<P::Family>(call, address, port) {
        Decision::Offer(offer) => {
            let mut backend = Backend::default();
            match resolve::<P>(call, &offer, &mut backend) {
                Resolved::None => as_it_is::<P>(call),
                Resolved::Kept => translate::<P>(call, &backend, told::every()),
                Resolved::Chosen => translate::<P>(call, &backend, true),
            }
        }
        Decision::None => GO_ON,
        Decision::Left => as_it_is::<P>(call),
        Decision::Refused => stop::<P>(call, SocketCall::Refused, ECONNREFUSED),
        // As netfilter answers a datagram that it drops on its way out.
        Decision::Denied => stop::<P>(call, SocketCall::Denied, EPERM),
    }
}

/// What a datagram gets.
enum Resolved {
    None,
    /// What the one before it got.
    Kept,
    Chosen,
}

/// The backend that this socket writes to, for as long as it is one and not idle for too long; else another.
#[inline(always)]
fn resolve<P: Place>(
    call: Call,
    offer: &Offer,
    backend: &mut Backend<<P::Family as crate::family::Family>::Address>,
) -> Resolved {
    let frontend = (P::address(call), call.port());
    if P::State::peer_of_frontend(call, frontend, offer.config, backend)
        && crate::service::is_member::<P::Family>(offer.set.set, backend.address, backend.port)
    {
        P::State::keep(call, frontend, backend);
        return Resolved::Kept;
    }
    if !decide::choose::<P::Family>(call, offer, backend) {
        return Resolved::None;
    }
    P::State::keep(call, frontend, backend);
    Resolved::Chosen
}

/// recvmsg(2) and its kin, of a datagram socket, with the source asked for.
#[inline(always)]
pub fn recvmsg<P: Place>(call: Call) -> i32 {
    let source = (P::address(call), call.port());
    if let Some(frontend) = P::State::frontend_of_source(call, source) {
        turn_back::<P>(call, source, frontend);
    }
    GO_ON
}

/// getpeername(2).
#[inline(always)]
pub fn getpeername<P: Place>(call: Call) -> i32 {
    let peer = (P::address(call), call.port());
    if let Some(frontend) = P::State::frontend_of_peer(call, peer) {
        turn_back::<P>(call, peer, frontend);
    }
    GO_ON
}

/// Address and port.
type Pair<P> = (<<P as Place>::Family as crate::family::Family>::Address, Be16);

/// The other side as the program knows it.
#[inline(always)]
fn turn_back<P: Place>(call: Call, before: Pair<P>, after: Pair<P>) {
    if told::every() {
        let what =
            What { kind: EventKind::Translated, point: Point::Answer, reason: Reason::ForwardedEstablished };
        told::offer::<P::Family>(call, what, &Ends { before, after });
    }
    P::set_address(call, after.0);
    call.set_port(after.1);
}

#[inline(always)]
fn translate<P: Place>(
    call: Call,
    backend: &Backend<<P::Family as crate::family::Family>::Address>,
    is_told: bool,
) -> i32 {
    if is_told {
        let ends = Ends { before: (P::address(call), call.port()), after: (backend.address, backend.port) };
        let what = What { kind: EventKind::Translated, point: Point::Call, reason: Reason::ForwardedNew };
        told::offer::<P::Family>(call, what, &ends);
    }
    P::set_address(call, backend.address);
    call.set_port(backend.port);
    counters::socket(SocketCall::Translated);
    GO_ON
}

/// The packet path does what is to be done.
#[inline(always)]
fn as_it_is<P: Place>(call: Call) -> i32 {
    P::State::forget(call);
    counters::socket(SocketCall::Left);
    GO_ON
}

#[inline(always)]
fn stop<P: Place>(call: Call, reason: SocketCall, error: i32) -> i32 {
    if !call.fail(error) {
        return as_it_is::<P>(call);
    }
    counters::socket(reason);
    let (kind, reason) = match (reason, call.protocol()) {
        (SocketCall::Denied, _) => (EventKind::Dropped, Reason::DroppedSourceRange),
        (_, protocol::TCP) => (EventKind::Refused, Reason::RefusedTcp),
        _ => (EventKind::Refused, Reason::RefusedUdp),
    };
    let named = (P::address(call), call.port());
    told::offer::<P::Family>(
        call,
        What { kind, point: Point::Call, reason },
        &Ends { before: named, after: named },
    );
    STOP
}
