//! How long a sender goes on without an answer.

use super::rtt;
use crate::sock::flag;
use crate::sock::net::NetSock;
use crate::stack::locked::Locked;
use crate::time::{Instant, MS};

/// Of `TCP_USER_TIMEOUT`, since the first retransmission.
pub(super) fn remaining_patience(l: &Locked<'_, '_, '_>, s: NetSock<'_>) -> Option<u64> {
    let (user, stamp) = (s.user_timeout.get(), s.net.tcb.retrans_stamp.get());
    let gone = l.env.now.ms32().wrapping_sub(stamp);
    (user != 0 && stamp != 0).then(|| u64::from(user.saturating_sub(gone)) * MS)
}

/// The peer shut its window after we had sent: retransmissions are probes, and it is gone when it is silent.
pub(super) fn is_deaf(l: &Locked<'_, '_, '_>, s: NetSock<'_>) -> bool {
    let t = &s.net.tcb;
    let silent = l.env.now.since(Instant(s.last_rx.get()));
    let stamp = t.retrans_stamp.get();
    let since = match stamp {
        0 => 0,
        n => u64::from(l.env.now.ms32().wrapping_sub(n)) * MS,
    };
    let user = u64::from(s.user_timeout.get()) * MS;
    let mut most = rtt::largest(&l.st.opts) * 2;
    if user != 0 {
        if since > user {
            return true;
        }
        most = most.min(user);
    }
    silent > most && since > most
}

/// `tcp_retries2`, the orphan's limit and `TCP_USER_TIMEOUT` (`retransmits_timed_out`): as times, that so many
/// retransmissions would take at the least.
pub(super) fn given_up(l: &Locked<'_, '_, '_>, s: NetSock<'_>) -> bool {
    let t = &s.net.tcb;
    if t.retransmits.get() == 0 || t.retrans_stamp.get() == 0 {
        return false;
    }
    let gone = u64::from(l.env.now.ms32().wrapping_sub(t.retrans_stamp.get())) * MS;
    let user = u64::from(s.user_timeout.get()) * MS;
    if user != 0 {
        return gone >= user;
    }
    let o = &l.st.opts;
    let limit = if s.has(flag::ORPHAN) && !s.has(flag::IN_ACCEPTQ) {
        o.orphan_retries
    } else {
        o.retries2
    };
    let (least, most) = (u64::from(o.rto_min_ms) * MS, rtt::largest(o));
    let doubled = (most / least.max(1)).max(1).ilog2();
    let n = limit.min(doubled);
    let model = ((2u64 << n) - 1) * least + u64::from(limit - n) * most;
    gone >= model
}
