//! Local ports that the daemon has lent to the stack. All flows of such a port come here and nobody else can bind it, so a
//! connection from it begins without a word to the daemon. Each process has the list of a lease; its number tells whether
//! the list is still true.

use crate::error::Error;
use crate::sock::{Sock, SockId};
use crate::stack::Stack;
use crate::stack::locked::Locked;
use crate::tcp::state::TcpState;
use crate::tcp::tcb::tflag;
use crate::time::{Instant, MS};
use core::sync::atomic::Ordering::{Acquire, Release};
use flyover_shm::SharedCell;
use flyover_wire::{Endpoint, Ip};

/// What a socket has for a filter whose port is a lent one: the daemon's filter is that of the lease.
pub const LEASED: u32 = u32::MAX;
/// Words of one bit per port.
pub const PORT_WORDS: usize = 1024;
/// A connection in TIME_WAIT gives its addresses to a new one after this, ns, if both have timestamps (Linux's
/// `tcp_tw_reuse`, RFC 6191).
const OLD: u64 = 1_000 * MS;

impl Stack<'_> {
    /// Number of the present lease. Read before the daemon is asked for its ports.
    pub fn lease(self) -> u64 {
        self.state.lease.load(Acquire)
    }

    /// When somebody connected from a lent port last; `None`: nobody since the last lease ended.
    pub fn lease_used(self) -> Option<Instant> {
        let at = self.state.lease_used.get();
        (at != 0).then_some(Instant(at))
    }
}

impl Sock {
    /// The local port is a lent one: the kernel socket does not hold it.
    pub fn is_leased(&self) -> bool {
        self.filter.get() == LEASED
    }
}

impl Locked<'_, '_, '_> {
    /// [`Self::tcp_connect`] from `ip` and one of `ports`, which are of lease number `lease`, each in its turn: a port is
    /// used again as late as can be. Returns the port.
    ///
    /// # Errors
    /// [`Error::AddressInUse`] when all are taken, or none is lent any more; else as [`Self::tcp_connect`].
    pub fn tcp_connect_leased(
        &mut self,
        id: SockId,
        lease: u64,
        (ip, ports): (Ip, &[u16]),
        remote: Endpoint,
    ) -> Result<u16, Error> {
        let st = self.st;
        if st.lease() != lease {
            return Err(Error::AddressInUse);
        }
        let turn = st.state.lease_turn.get();
        st.state.lease_turn.set(turn.wrapping_add(1));
        let first = turn.checked_rem(ports.len() as u64).unwrap_or(0) as usize;
        let in_turn = || {
            let all = ports.iter().skip(first).chain(ports.iter().take(first));
            all.copied().filter(|port| !self.is_spent(*port))
        };
        let at = |port| Endpoint { ip, port };
        let port = in_turn()
            .find(|port| st.find_conn(at(*port), remote).is_none())
            .or_else(|| in_turn().find(|port| self.is_worn(at(*port), remote)))
            .ok_or(Error::AddressInUse)?;
        st.state.lease_used.set(self.env.now.0);
        st.sock(id).filter.set(LEASED);
        self.tcp_connect(id, at(port), remote)
            .inspect_err(|_| st.sock(id).filter.set(0))?;
        Ok(port)
    }

    /// The kernel has, or had, a connection from this port: what comes for it may be the kernel's.
    pub(crate) fn spend_port(&mut self, port: u16) {
        if let Some((word, bit)) = self.place(port) {
            word.set(word.get() | bit);
        }
    }

    fn is_spent(&self, port: u16) -> bool {
        self.place(port)
            .is_none_or(|(word, bit)| word.get() & bit != 0)
    }

    fn place(&self, port: u16) -> Option<(&SharedCell<u64>, u64)> {
        let word = self.st.state.spent.get(usize::from(port) / 64)?;
        Some((word, 1 << (u32::from(port) % 64)))
    }

    /// The connection between these addresses has been in TIME_WAIT for long enough.
    fn is_worn(&self, local: Endpoint, remote: Endpoint) -> bool {
        let Some(id) = self.st.find_conn(local, remote) else {
            return true;
        };
        let s = self.st.net(id);
        let left = s.net.tcb.t_life.get().saturating_sub(self.env.now.0);
        let whole = u64::from(self.st.opts.time_wait_ms) * MS;
        s.tcp_state() == TcpState::TimeWait
            && s.net.tcb.tflags.get() & tflag::TS != 0
            && whole.saturating_sub(left) >= OLD.min(whole)
    }

    /// Nobody has connected from a lent port since `since`, and no socket has one: the lease is over, for everybody
    /// who has its list. Returns the number of the next one.
    pub fn end_idle_lease(&mut self, since: Instant) -> Option<u64> {
        let st = self.st;
        let used = st.state.lease_used.get();
        let held = || st.each_sock().any(|r| st.sock(r.id).is_leased());
        if used == 0 || used > since.0 || held() {
            return None;
        }
        let next = st.lease().wrapping_add(1);
        st.state.lease_used.set(0);
        st.state.spent.iter().for_each(|word| word.set(0));
        st.state.lease.store(next, Release);
        Some(next)
    }
}
