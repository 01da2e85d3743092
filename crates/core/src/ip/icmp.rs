//! ICMP errors that the kernel received for flows of ours: path MTU (RFC 1191, RFC 8201) and unreachable.

use super::tx;
use crate::error::Error;
use crate::sock::{Kind, SockId, flag};
use crate::stack::locked::Locked;
use crate::tcp::state::TcpState;
use crate::tcp::timers;
use crate::tcp::user::handover::is_frozen;
use flyover_wire::{FlowKey, IPPROTO_TCP, Seq};

/// Linux's numbers.
const ENETUNREACH: i32 = 101;
const EHOSTUNREACH: i32 = 113;

/// What an ICMP message reports of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IcmpError {
    /// The path takes packets of this many bytes only.
    FragNeeded(u32),
    /// Unreachable; the errno that Linux gives, and whether it is fatal for a connection in the making.
    Unreachable(i32),
}

impl Locked<'_, '_, '_> {
    /// An ICMP error quoted a packet of `flow`. `seq` is the quoted TCP sequence number: only one that is in flight is
    /// believed (RFC 5927).
    pub fn icmp_error(&mut self, flow: FlowKey, seq: Option<Seq>, what: IcmpError) {
        let found = if flow.proto == IPPROTO_TCP {
            self.st.find_conn(flow.local, flow.remote)
        } else {
            self.st.find_udp(flow.local, flow.remote)
        };
        let Some(id) = found else { return };
        let s = self.st.sock(id);
        if s.kind() == Kind::Tcp && (is_frozen(s) || !self.in_flight(id, seq)) {
            return;
        }
        match what {
            IcmpError::FragNeeded(mtu) => self.lower_mtu(id, mtu),
            IcmpError::Unreachable(errno) => self.unreachable(id, seq, errno),
        }
    }

    fn in_flight(&self, id: SockId, seq: Option<Seq>) -> bool {
        let t = self.st.tcb(id);
        let (una, nxt) = (Seq(t.snd_una.get()), Seq(t.snd_nxt.get()));
        seq.is_some_and(|q| q.after_eq(una) && q.before(nxt))
    }

    fn lower_mtu(&mut self, id: SockId, mtu: u32) {
        let s = self.st.net(id);
        let mtu = mtu.max(self.st.opts.pmtu_min);
        if s.net.rt_mtu.get() != 0 && mtu >= s.net.rt_mtu.get() {
            return;
        }
        tx::note_path_mtu(s, mtu, self.env.now, self.st.opts.pmtu_expires_s);
        s.net.rt_valid.set(0);
        if s.kind() == Kind::Tcp && s.tcp_state().transmits() {
            // What was too large is lost; send it again in smaller segments, without blaming the network's load.
            crate::tcp::user::connect::check_mtu(self, s, mtu);
            crate::tcp::loss::too_large(self, id);
            self.post(id);
        }
    }

    fn unreachable(&mut self, id: SockId, seq: Option<Seq>, errno: i32) {
        let s = self.st.net(id);
        match s.kind() {
            // The kernel socket behind the descriptor has the same addresses and got the same message: it keeps the
            // error, and the queue of IP_RECVERR; the keeper notes it (`os_event`).
            Kind::Udp => {}
            Kind::Tcp if s.tcp_state() == TcpState::SynSent && !s.has(flag::ORPHAN) => {
                self.reset_conn(id, Error::Errno(errno));
            }
            Kind::Tcp if s.tcp_state() == TcpState::SynRcvd && s.has(flag::CHILD) => {
                // As Linux: only no way to the net or the host ends it.
                if matches!(errno, EHOSTUNREACH | ENETUNREACH) {
                    self.destroy(id);
                }
            }
            // Established: a soft error (RFC 1122 section 4.2.3.9), the timers decide.
            _ => {
                s.net.tcb.soft_error.set(errno.unsigned_abs());
                if matches!(errno, EHOSTUNREACH | ENETUNREACH)
                    && seq == Some(Seq(s.net.tcb.snd_una.get()))
                {
                    timers::take_step_back(self, id);
                }
            }
        }
    }
}
