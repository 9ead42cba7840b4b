//! What is remembered of sockets that were given a backend.

use crate::{Be16, plain};

/// Value of the socket storage `SOCKETS_*`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Socket<A> {
    /// What the program asked to be connected to.
    pub frontend: A,
    /// What it is connected to instead.
    pub backend: A,
    pub frontend_port: Be16,
    /// 0: connected to no frontend.
    pub backend_port: Be16,
    /// Of [`socket_flags`].
    pub flags: u32,
}

/// Bits of [`Socket::flags`].
pub mod socket_flags {
    /// The socket wrote to frontends without being connected: `DATAGRAMS_*` has rows of it.
    pub const DATAGRAMS: u32 = 1;
}

/// LRU hash key of `DATAGRAMS_*`: one side of a datagram socket's flow. Connected ones have no [`datagram_side::FRONTEND`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct DatagramKey<A> {
    /// Low and high half of the socket's cookie.
    pub socket: [u32; 2],
    pub address: A,
    pub port: Be16,
    /// Of [`datagram_side`]: what the key's address is.
    pub side: u16,
}

/// Values of [`DatagramKey::side`].
pub mod datagram_side {
    pub const FRONTEND: u16 = 0;
    pub const BACKEND: u16 = 1;
}

/// The other side.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DatagramPeer<A> {
    pub address: A,
    pub port: Be16,
    pub padding: u16,
    /// Jiffies, low 32 bits, of the last datagram sent. Kept up to date in the frontend's row only.
    pub last_used: u32,
}

const _: () = {
    use crate::{V4, V6};
    assert!(size_of::<Socket<V4>>() == 16 && size_of::<Socket<V6>>() == 40);
    assert!(size_of::<DatagramKey<V4>>() == 16 && size_of::<DatagramKey<V6>>() == 28);
    assert!(size_of::<DatagramPeer<V4>>() == 12 && size_of::<DatagramPeer<V6>>() == 24);
};
plain!(per family: Socket, DatagramKey, DatagramPeer);
