//! A stack: a typed view of one mapping. The view is a handle that is copied freely; all state is in the mapping.

pub mod audit;
pub mod buf;
mod bulk;
pub mod deferred;
pub mod ends;
pub mod heirloom;
pub mod layout;
pub mod locked;
pub mod poll;
pub mod recover;
pub mod state;
pub mod stats;
pub mod wake;
pub mod wheel;

use crate::sock::net::Net;
use crate::sock::{Kind, Sock, SockId, SockRef, flag};
use crate::tcp::flight::{Flight, Table};
use crate::tcp::state::TcpState;
use crate::time::Instant;
use alloc::boxed::Box;
use buf::Buf;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use flyover_config::StackOpts;
use flyover_shm::{Arena, Idx, OptIdx, Region, SharedCell, ShmBytes, StackLock, shm_struct};
use flyover_vnic::NicState;
use flyover_wire::Endpoint;
use layout::{Layout, Limits};
use state::StackState;
use wake::{Item, Set, Waiter};

/// Word at the start of an initialised stack.
pub const MAGIC: u64 = u64::from_be_bytes(*b"FLYOVER1");

shm_struct! {
    /// A demultiplexer bucket: first connection, first listener, first UDP socket.
    pub struct Bucket {
        /// Connections by 4-tuple.
        pub conn: SharedCell<OptIdx<Sock>>,
        /// Listeners by port.
        pub listen: SharedCell<OptIdx<Sock>>,
        /// UDP sockets by port.
        pub udp: SharedCell<OptIdx<Sock>>,
    }
}

/// The mapping is too small, misaligned, or the options make no sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayoutError;

/// Handle to a stack: one pointer, copied freely.
#[derive(Clone, Copy)]
pub struct Stack<'m>(&'m View<'m>);

/// What a process knows privately of a stack: where everything lies, and the options.
pub struct View<'m> {
    pub(crate) state: &'m StackState,
    pub(crate) nics: Arena<'m, NicState>,
    pub(crate) buckets: Arena<'m, Bucket>,
    pub(crate) socks: Arena<'m, Sock>,
    pub(crate) nets: Arena<'m, Net>,
    pub(crate) flights: Arena<'m, Table>,
    pub(crate) bufs: Arena<'m, Buf>,
    pub(crate) items: Arena<'m, Item>,
    pub(crate) sets: Arena<'m, Set>,
    pub(crate) waiters: Arena<'m, Waiter>,
    pub(crate) data: ShmBytes<'m>,
    limits: Limits,
    pub(crate) opts: StackOpts,
}

impl<'m> core::ops::Deref for Stack<'m> {
    type Target = View<'m>;
    #[inline]
    fn deref(&self) -> &View<'m> {
        self.0
    }
}

impl core::fmt::Debug for Stack<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Stack")
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

impl<'m> Stack<'m> {
    /// A view of `region`, whose layout follows from `opts`.
    ///
    /// # Errors
    /// [`LayoutError`] when the region is smaller than [`layout::layout_len`].
    pub fn new(region: Region<'m>, opts: &StackOpts) -> Result<Self, LayoutError> {
        let l = Layout::new(opts);
        let root: Arena<'m, StackState> =
            Arena::new(region, l.state, 1).map_err(|_| LayoutError)?;
        let e = |_| LayoutError;
        // The crate's only allocation, a few hundred bytes when a process attaches: kept for as long as the mapping,
        // which is that of the process. By value the view would be copied with every call.
        let view = Box::new(View {
            state: root.at(Idx::new(0)),
            nics: Arena::new(region, l.nics, layout::NICS).map_err(e)?,
            buckets: Arena::new(region, l.buckets, l.limits.buckets).map_err(e)?,
            socks: Arena::new(region, l.socks, l.limits.socks).map_err(e)?,
            nets: Arena::new(region, l.nets, l.limits.socks).map_err(e)?,
            flights: Arena::new(region, l.flights, l.limits.socks).map_err(e)?,
            bufs: Arena::new(region, l.bufs, l.limits.bufs).map_err(e)?,
            items: Arena::new(region, l.items, l.limits.items).map_err(e)?,
            sets: Arena::new(region, l.sets, l.limits.sets).map_err(e)?,
            waiters: Arena::new(region, l.waiters, l.limits.waiters).map_err(e)?,
            data: region.bytes(l.data, l.limits.bufs as usize * buf::BUF_SIZE),
            limits: l.limits,
            opts: *opts,
        });
        Ok(Self(Box::leak(view)))
    }

    /// Fills zeroed memory with an empty stack. The keeper calls it once, before anybody else attaches.
    pub fn init(self, now: Instant, secret: [u64; 4]) {
        let st = self.state;
        for (cell, v) in st.secret.iter().zip(secret) {
            cell.set(v);
        }
        st.wheel_tick.set(now.0 >> 20);
        st.sock_slots.init(self.socks);
        st.buf_slots.init(self.bufs);
        st.item_slots.init(self.items);
        st.set_slots.init(self.sets);
        st.waiter_slots.init(self.waiters);
        st.hash.store(layout::LAYOUT_HASH, Relaxed);
        st.magic.store(MAGIC, Release);
    }

    /// True when the keeper has initialised the memory and it has this program's layout.
    pub fn is_ready(self) -> bool {
        self.state.magic.load(Acquire) == MAGIC
            && self.state.hash.load(Relaxed) == layout::LAYOUT_HASH
    }

    /// Table sizes.
    #[inline]
    pub fn limits(self) -> Limits {
        self.limits
    }

    /// The options that the stack was made with.
    pub fn opts(&self) -> &StackOpts {
        &self.opts
    }

    /// The lock, for those who have to sleep on it.
    #[inline]
    pub fn lock(self) -> &'m StackLock {
        &self.state.lock
    }

    /// The socket in a slot, whatever it holds.
    #[inline]
    pub fn sock(self, id: SockId) -> &'m Sock {
        self.socks.at(id)
    }

    /// What a connection has in flight, and its control block.
    #[inline]
    pub(crate) fn flight(self, id: SockId) -> Flight<'m> {
        Flight {
            tcb: self.tcb(id),
            table: self.flights.at(Idx::new(id.raw())),
        }
    }

    /// The shared state of V-NIC `i`.
    pub fn nic_state(self, i: u32) -> Option<&'m NicState> {
        (i < layout::NICS).then(|| self.nics.at(Idx::new(i)))
    }

    /// The slot and its present generation.
    #[inline]
    pub fn sock_ref(self, id: SockId) -> SockRef {
        SockRef {
            id,
            generation: self.sock(id).gen_.load(Acquire),
        }
    }

    /// The socket, unless the slot was re-used meanwhile.
    #[inline]
    pub fn get(self, r: SockRef) -> Option<&'m Sock> {
        let s = self.sock(r.id);
        (s.gen_.load(Acquire) == r.generation && s.kind() != Kind::Free).then_some(s)
    }

    /// When somebody last polled.
    pub fn attended(self) -> Instant {
        Instant(self.state.attended.load(Acquire))
    }

    /// A frame of an outbox was refused.
    pub fn count_outbox_lost(self) {
        let _: u64 = self.state.stats.tx_outbox_lost.fetch_add(1, Relaxed);
    }

    /// A reader let segments come together.
    pub fn count_gathered(self) {
        let _: u64 = self.state.stats.tcp_gathered.fetch_add(1, Relaxed);
    }

    /// Counts polls.
    pub fn poll_seq(self) -> u64 {
        self.state.poll_seq.load(Acquire)
    }

    /// Counts changes of the set of V-NICs.
    pub fn nic_gen(self) -> u32 {
        self.state.nic_gen.load(Acquire)
    }

    /// Tells attached processes that the set of V-NICs changed.
    pub fn set_nic_gen(self, generation: u32) {
        self.state.nic_gen.store(generation, Release);
    }

    /// Counts the daemons that took the stack over from one that died: whoever sees it move speaks to the new one.
    #[inline]
    pub fn daemons(self) -> u64 {
        self.state.daemons.load(Relaxed)
    }

    /// Tells attached processes that another daemon has taken the stack over.
    pub fn note_daemon(self) {
        self.state.daemons.fetch_add(1, Release);
    }

    /// The keeper tells until when it sleeps; `Instant(0)`: it does not.
    pub fn set_keeper_sleep(self, until: Instant) {
        self.state.keeper_sleep.store(until.0, Release);
        // Before the look at the deadline. Whoever arms one publishes it, and then looks at this: one of the two sees the
        // other.
        core::sync::atomic::fence(core::sync::atomic::Ordering::SeqCst);
    }

    /// Counters.
    pub fn stats(self) -> &'m stats::Stats {
        &self.state.stats
    }

    /// Notes which socket is being changed, for whoever has to mend what a dead process left half done. Returns what
    /// was noted before; store that when the change is complete.
    pub(crate) fn intend(self, id: SockId) -> u32 {
        let note = id.raw().wrapping_add(1);
        self.state.intent.swap(note, Relaxed)
    }

    /// Memberships in sets that are in use.
    pub fn items_used(self) -> u32 {
        self.state.item_slots.used.load(Relaxed)
    }

    /// Sockets in use.
    pub fn socks_used(self) -> u32 {
        self.state.socks_used.load(Relaxed)
    }

    /// Every waiter that was ever in use.
    pub fn each_waiter(self) -> impl Iterator<Item = wake::WaiterId> + use<'m> {
        (0..self.state.waiter_slots.touched(self.waiters)).map(Idx::new)
    }

    /// All slots in use, in order.
    pub fn each_sock(self) -> impl Iterator<Item = SockRef> + use<'m> {
        (0..self.state.sock_slots.touched(self.socks))
            .map(Idx::new)
            .filter(move |id| self.sock(*id).kind() != Kind::Free)
            .map(move |id| self.sock_ref(id))
    }

    /// A connection that no process holds any more goes on at this local port (of any address, if `at` has none), and is not in
    /// TIME_WAIT: the kernel, whose socket is gone, takes the port for free.
    pub fn lingers_at(self, at: Endpoint) -> bool {
        let socks = self.each_sock().map(|r| self.sock(r.id));
        let mut here = socks.filter(|s| s.lport.get() == u32::from(at.port));
        here.any(|s| {
            let ours = at.ip.is_unspecified() || s.local().ip == at.ip;
            let lasts = !matches!(s.tcp_state(), TcpState::Closed | TcpState::TimeWait);
            ours && lasts && s.kind() == Kind::Tcp && s.has(flag::ORPHAN) && !s.has(flag::CHILD)
        })
    }

    /// Local and remote end of every connection that came through this listener. Needs no lock: a connection that
    /// ends meanwhile may still be named.
    pub fn child_flows(
        self,
        listener: SockRef,
    ) -> impl Iterator<Item = (Endpoint, Endpoint)> + use<'m> {
        self.each_sock()
            .map(move |r| self.sock(r.id))
            .filter(move |s| {
                s.has(flag::CHILD)
                    && s.parent.get().opt() == Some(listener.id)
                    && s.parent_gen.get() == listener.generation
            })
            .map(|s| (s.local(), s.remote()))
    }
}
