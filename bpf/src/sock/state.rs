//! What is remembered of a socket: the frontend that it is connected to, and those that it writes to unconnected.
//!
//! A socket's own storage goes with the socket, and user space can ask for it (`INET_DIAG_REQ_SK_BPF_STORAGES`), which is how
//! it finds streams whose backend is gone. Flows of datagram sockets are rows of an LRU table by the socket's cookie: two of
//! an unconnected one, one of a connected one, whose storage the kernel does not show (`inet_sk_diag_fill`). The storage says
//! whether there can be rows, so that sockets without pay nothing for them.

use core::ptr;

use abi::{
    Backend, Be16, Config, DatagramKey, DatagramPeer, Socket, V4, V6, datagram_side, protocol, socket_flags,
};
use aya_ebpf::{
    btf_maps::{LruHashMap, SkStorage},
    macros::btf_map,
};

use super::Call;
use crate::{
    family::{Family, Ipv4, Ipv6},
    kernel::jiffies,
};

/// Two per flow of an unconnected socket.
const DATAGRAM_ROWS: usize = 16_384;

/// Address and port.
type Pair<F> = (<F as Family>::Address, Be16);

/// The maps of one family, and what is done with them.
pub trait State<F: Family> {
    fn sockets() -> &'static SkStorage<Socket<F::Address>>;
    fn datagrams() -> &'static LruHashMap<DatagramKey<F::Address>, DatagramPeer<F::Address>, DATAGRAM_ROWS>;

    /// Where memory is short the socket is served all the same; only its peer's name is then the backend's.
    #[inline(always)]
    fn connect(call: Call, (frontend, port): Pair<F>, backend: &Backend<F::Address>) {
        let mut state = Socket {
            frontend,
            backend: backend.address,
            frontend_port: port,
            backend_port: backend.port,
            flags: 0,
        };
        if let Some(found) = Self::storage(call, &mut state) {
            found.frontend = frontend;
            found.backend = backend.address;
            found.frontend_port = port;
            found.backend_port = backend.port;
        }
        if call.protocol() == protocol::UDP {
            let peer = DatagramPeer { address: frontend, port, padding: 0, last_used: jiffies() };
            let _ = Self::datagrams().insert(&Self::answers(call, (backend.address, backend.port)), &peer, 0);
        }
    }

    /// The key of what comes from a backend.
    #[inline(always)]
    fn answers(call: Call, (address, port): Pair<F>) -> DatagramKey<F::Address> {
        DatagramKey { socket: call.cookie(), address, port, side: datagram_side::BACKEND }
    }

    /// The socket is connected to what it named.
    #[inline(always)]
    fn forget(call: Call) {
        let Some(state) = Self::find(call) else { return };
        if call.protocol() == protocol::UDP {
            let _ = Self::datagrams().remove(Self::answers(call, (state.backend, state.backend_port)));
        }
        // SAFETY: the kernel passes a valid socket. It has a storage.
        let _ = unsafe { Self::sockets().delete(call.socket()) };
    }

    /// The socket's storage, made from `initial` where it has none.
    #[inline(always)]
    fn storage(call: Call, initial: &mut Socket<F::Address>) -> Option<&'static mut Socket<F::Address>> {
        // SAFETY: the kernel passes a valid socket; its storage lives at least until the program ends (RCU).
        unsafe { Self::sockets().get_or_insert_ptr_mut(&call.context(), Some(initial)).as_mut() }
    }

    #[inline(always)]
    fn find(call: Call) -> Option<&'static Socket<F::Address>> {
        // SAFETY: as in `storage`.
        unsafe { Self::sockets().get_ptr_mut(&call.context()).as_ref() }
    }

    /// The frontend that the socket asked to be connected to, where it is connected to `peer` for it.
    #[inline(always)]
    fn frontend_of_peer(call: Call, peer: Pair<F>) -> Option<Pair<F>> {
        let state = Self::find(call)?;
        (peer == (state.backend, state.backend_port)).then_some((state.frontend, state.frontend_port))
    }

    /// The frontend that the socket wrote to, where `source` answered for it.
    #[inline(always)]
    fn frontend_of_source(call: Call, source: Pair<F>) -> Option<Pair<F>> {
        let state = Self::find(call)?;
        if source == (state.backend, state.backend_port) {
            return Some((state.frontend, state.frontend_port));
        }
        if state.flags & socket_flags::DATAGRAMS == 0 {
            return None;
        }
        let row = Self::row(call, source, datagram_side::BACKEND)?;
        Some((row.address, row.port))
    }

    /// Into `backend`, where the flow is not idle for longer than the packet path would keep it.
    #[inline(always)]
    fn peer_of_frontend(
        call: Call,
        frontend: Pair<F>,
        config: &Config,
        backend: &mut Backend<F::Address>,
    ) -> bool {
        let Some(row) = Self::row(call, frontend, datagram_side::FRONTEND) else { return false };
        backend.address = row.address;
        backend.port = row.port;
        jiffies().wrapping_sub(row.last_used) < config.timeouts.udp
    }

    #[inline(always)]
    fn row(call: Call, (address, port): Pair<F>, side: u16) -> Option<DatagramPeer<F::Address>> {
        let key = DatagramKey { socket: call.cookie(), address, port, side };
        // SAFETY: rows change whole, but for the time; a mixed read names a backend that membership then denies.
        Self::datagrams().get_ptr(&key).map(|row| unsafe { ptr::read(row) })
    }

    /// Remembers both directions of a flow, or that it goes on.
    #[inline(always)]
    fn keep(call: Call, (address, port): Pair<F>, backend: &Backend<F::Address>) {
        let mut initial = Socket { flags: socket_flags::DATAGRAMS, ..Default::default() };
        if let Some(found) = Self::storage(call, &mut initial) {
            found.flags |= socket_flags::DATAGRAMS;
        }
        let mut key = DatagramKey { socket: call.cookie(), address, port, side: datagram_side::FRONTEND };
        let mut peer =
            DatagramPeer { address: backend.address, port: backend.port, padding: 0, last_used: jiffies() };
        if let Some(row) = Self::datagrams().get_ptr_mut(&key) {
            // SAFETY: as in `row`.
            let row = unsafe { &mut *row };
            if row.address == peer.address && row.port == peer.port {
                row.last_used = peer.last_used;
                return;
            }
        }
        // An LRU table makes room; if it cannot, the next datagram may go elsewhere, and the answer shows its own source.
        let _ = Self::datagrams().insert(&key, &peer, 0);
        (key.address, key.port, key.side) = (backend.address, backend.port, datagram_side::BACKEND);
        (peer.address, peer.port) = (address, port);
        let _ = Self::datagrams().insert(&key, &peer, 0);
    }
}

macro_rules! state {
    ($family:ty, $address:ty, $sockets:ident, $datagrams:ident) => {
        impl State<$family> for $family {
            #[inline(always)]
            fn sockets() -> &'static SkStorage<Socket<$address>> {
                #[btf_map]
                static $sockets: SkStorage<Socket<$address>> = SkStorage::new();
                &$sockets
            }

            #[inline(always)]
            fn datagrams()
            -> &'static LruHashMap<DatagramKey<$address>, DatagramPeer<$address>, DATAGRAM_ROWS> {
                #[btf_map]
                static $datagrams: LruHashMap<
                    DatagramKey<$address>,
                    DatagramPeer<$address>,
                    DATAGRAM_ROWS,
                > = LruHashMap::new();
                &$datagrams
            }
        }
    };
}
state!(Ipv4, V4, SOCKETS_V4, DATAGRAMS_V4);
state!(Ipv6, V6, SOCKETS_V6, DATAGRAMS_V6);
