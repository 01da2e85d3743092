//! Active open, and the numbers that both kinds of open choose.

use crate::error::Error;
use crate::ip::tx::{NoWay, way};
use crate::sock::net::NetSock;
use crate::sock::{Kind, Sock, SockId};
use crate::stack::locked::Locked;
use crate::tcp::state::TcpState;
use crate::tcp::tcb::{Tcb, rtx, tflag};
use crate::tcp::{cc, rtt, rx::count, timers, tx, window};
use crate::time::{Instant, MS};
use core::hash::Hasher;
use core::sync::atomic::Ordering::Relaxed;
use flyover_config::StackOpts;
use flyover_shm::SharedCell;
use flyover_wire::{Endpoint, Seq, TcpOpts};
use siphasher::sip::SipHasher13;

impl Locked<'_, '_, '_> {
    /// True when a connection between these addresses exists that a new one may not replace, as
    /// [`Self::tcp_connect`] says with [`Error::AddressInUse`].
    pub fn is_taken(&self, local: Endpoint, remote: Endpoint) -> bool {
        let old = self.st.find_conn(local, remote);
        old.is_some_and(|id| self.st.sock(id).tcp_state() != TcpState::TimeWait)
    }

    /// Starts to connect: routes, enters the 4-tuple and sends the SYN. The caller waits for the events.
    ///
    /// # Errors
    /// [`Error::HostUnreachable`] without a route over a V-NIC, [`Error::AddressInUse`] when the 4-tuple is taken,
    /// [`Error::IsConnected`], [`Error::Already`], [`Error::Invalid`] for a listener.
    pub fn tcp_connect(
        &mut self,
        id: SockId,
        local: Endpoint,
        remote: Endpoint,
    ) -> Result<(), Error> {
        let st = self.st;
        let s = st.become_net(id);
        if s.kind() != Kind::Tcp {
            return Err(Error::Invalid);
        }
        match s.tcp_state() {
            TcpState::Closed => {}
            TcpState::Listen => return Err(Error::Invalid),
            TcpState::SynSent | TcpState::SynRcvd => return Err(Error::Already),
            _ => return Err(Error::IsConnected),
        }
        if self.is_taken(local, remote) {
            return Err(Error::AddressInUse);
        }
        if let Some(old) = st.find_conn(local, remote) {
            // As Linux with timestamps (RFC 6191): the port pair may be used again; ISN and TSval go on rising.
            self.destroy(old);
        }
        s.set_local(local);
        s.set_remote(remote);
        if way(self, s) == Err(NoWay::Unreachable) {
            s.set_remote(Endpoint { port: 0, ..remote });
            return Err(Error::HostUnreachable);
        }
        let t = &s.net.tcb;
        let iss = isn(self, local, remote);
        t.iss.set(iss.0);
        t.snd_una.set(iss.0);
        t.snd_nxt.set(iss.0);
        init_tcb(self, s);
        // What `TCP_QUICKACK` said holds for the third segment already.
        t.tflags.set(t.tflags.get() & tflag::ANSWERS);
        t.peer_mss.set(536);
        set_mss(self, s);
        cc::init(t, st.opts.initial_cwnd, self.env.now);
        s.shut.store(0, Relaxed);
        st.hash_conn(id);
        s.set_tcp_state(TcpState::SynSent);
        count!(self, tcp_active);
        tx::send_syn(self, id);
        if t.t_rtx.get() == 0 {
            arm_syn_timer(self, id);
        }
        Ok(())
    }
}

/// The connection is established: `TCP_INFO` and idle times count from here.
pub(crate) fn begins(l: &Locked<'_, '_, '_>, s: NetSock<'_>) {
    s.net.tcb.last_tx.set(l.env.now.0);
    s.net.tcb.drs_time.set(l.env.now.0);
}

/// Initial sequence number (RFC 6528): a clock of 4 us ticks plus a keyed hash of the 4-tuple.
pub(crate) fn isn(l: &Locked<'_, '_, '_>, local: Endpoint, remote: Endpoint) -> Seq {
    let secret = &l.st.state.secret;
    let k = |i: usize| secret.get(i).map_or(0, SharedCell::get);
    let mut h = SipHasher13::new_with_keys(k(2), k(3));
    for w in [local.ip.hi(), local.ip.lo(), remote.ip.hi(), remote.ip.lo()] {
        h.write_u64(w);
    }
    h.write_u32(u32::from(local.port) << 16 | u32::from(remote.port));
    Seq((h.finish() as u32).wrapping_add((l.env.now.0 / 4000) as u32))
}

/// A keyed hash of the addresses and `n`; no two of `n` tell anything of each other.
pub(crate) fn keyed(l: &Locked<'_, '_, '_>, ends: (Endpoint, Endpoint), n: u32) -> u32 {
    let (local, remote) = ends;
    let secret = &l.st.state.secret;
    let k = |i: usize| secret.get(i).map_or(0, SharedCell::get);
    let mut h = SipHasher13::new_with_keys(k(2), !k(3));
    for w in [local.ip.hi(), local.ip.lo(), remote.ip.hi(), remote.ip.lo()] {
        h.write_u64(w);
    }
    h.write_u32(u32::from(local.port) << 16 | u32::from(remote.port));
    h.write_u32(n);
    h.finish() as u32
}

/// What hides the machine's up-time in timestamps (RFC 7323 section 5.4): the same towards one host, so that a port pair
/// that is used again sends rising timestamps and a peer in TIME_WAIT takes the SYN (RFC 6191).
pub(crate) fn ts_offset(l: &Locked<'_, '_, '_>, local: Endpoint, remote: Endpoint) -> u32 {
    let secret = &l.st.state.secret;
    let k = |i: usize| secret.get(i).map_or(0, SharedCell::get);
    let mut h = SipHasher13::new_with_keys(k(3), k(2));
    for w in [local.ip.hi(), local.ip.lo(), remote.ip.hi(), remote.ip.lo()] {
        h.write_u64(w);
    }
    h.finish() as u32
}

/// What both kinds of open set up alike.
pub(crate) fn init_tcb(l: &mut Locked<'_, '_, '_>, s: NetSock<'_>) {
    let t = &s.net.tcb;
    let o = &l.st.opts;
    t.rto.set(u64::from(o.rto_init_ms) * MS);
    t.ts_off.set(ts_offset(l, s.local(), s.remote()));
    t.rcv_scale.set(window::own_scale(l.st, s));
    t.rcv_mss.set(536);
    t.quick.set(0);
    t.data_at.set(0);
    let wnd = window::initial(l.st, s, window::own_mss(s));
    t.drs_space.set(wnd);
    window::begin(t, wnd);
    t.drs_time.set(l.env.now.0);
    s.last_rx.set(l.env.now.0);
    t.last_tx.set(l.env.now.0);
    t.recover.set(t.iss.get());
    t.snd_sml.set(t.iss.get());
}

/// What of a peer's options the stack's options permit.
pub(crate) fn permitted(ours: &StackOpts, peer: &TcpOpts) -> TcpOpts {
    TcpOpts {
        wscale: peer.wscale.filter(|_| ours.window_scaling),
        ts: peer.ts.filter(|_| ours.timestamps),
        sack_permitted: peer.sack_permitted && ours.sack,
        ..*peer
    }
}

/// The MSS that we announce: what the interface's MTU carries.
pub(crate) fn our_mss(s: NetSock<'_>) -> u16 {
    let mtu = match s.net.rt_mtu.get() {
        0 => 1500,
        n => n,
    };
    mss_within(&s, s.remote().ip.is_v4(), mtu)
}

/// The same for any peer of that family.
pub(crate) fn mss_within(s: &Sock, v4: bool, mtu: u32) -> u16 {
    let ip = if v4 { 40 } else { 60 };
    let mss = mtu.saturating_sub(ip).clamp(88, 65_495);
    match s.user_mss.get() {
        0 => mss as u16,
        u => mss.min(u) as u16,
    }
}

/// The peer's MSS: what its SYN says, 536 without a word (RFC 9293 section 3.7.1), as Linux not below 48.
pub(crate) fn mss_of(o: &TcpOpts) -> u32 {
    match o.mss {
        None | Some(0) => 536,
        Some(n) => u32::from(n).max(MSS_LEAST),
    }
}

/// `net.ipv4.tcp_min_snd_mss`.
const MSS_LEAST: u32 = 48;

/// The payload of a full segment: the smaller of both MSS, without the options that every segment carries.
pub(crate) fn set_mss(l: &mut Locked<'_, '_, '_>, s: NetSock<'_>) {
    let _ = way(l, s);
    let t = &s.net.tcb;
    let options = if t.tflags.get() & tflag::TS != 0 {
        12
    } else {
        0
    };
    let mss = t.peer_mss.get().min(u32::from(our_mss(s)));
    t.mss.set(within_half(t, mss.max(MSS_LEAST) - options));
}

/// No segment is larger than half the largest window that the peer ever offered (RFC 9293 section 3.8.6.2.1 would wait
/// for more); as Linux's `tcp_bound_to_half_wnd`.
fn within_half(t: &Tcb, mss: u32) -> u32 {
    let most = match t.max_wnd.get() {
        0 => return mss,
        n if n > 536 => n / 2,
        n => n,
    };
    let headers = if t.tflags.get() & tflag::TS != 0 {
        32
    } else {
        20
    };
    mss.min(most.max(68 - headers))
}

/// The peer offers a larger window than ever before.
pub(crate) fn larger_window(l: &mut Locked<'_, '_, '_>, s: NetSock<'_>, wnd: u32) {
    let t = &s.net.tcb;
    let before = t.max_wnd.get();
    t.max_wnd.set(wnd);
    if before / 2 < LARGEST_MSS {
        set_mss(l, s);
    }
}

/// No MSS is larger than a packet.
const LARGEST_MSS: u32 = 65_536;

/// The path's MTU changed: so does the segment size.
pub(crate) fn check_mtu(l: &mut Locked<'_, '_, '_>, s: NetSock<'_>, mtu: u32) {
    let t = &s.net.tcb;
    let ip = if s.remote().ip.is_v4() { 40 } else { 60 };
    let options = if t.tflags.get() & tflag::TS != 0 {
        12
    } else {
        0
    };
    let fits = within_half(t, mtu.saturating_sub(ip + options).max(48));
    if t.mss.get() > fits {
        t.mss.set(fits);
    } else if t.mss.get() < fits {
        set_mss(l, s);
    }
}

/// After an acknowledgment that is not of our SYN (the peer still knows an older connection, which our RST ends) the SYN
/// is sent again at once instead of after a second, as Linux does; only once, so that nobody can make us a flood.
pub(crate) fn resend_syn_soon(l: &mut Locked<'_, '_, '_>, id: SockId) {
    let t = l.st.tcb(id);
    if t.backoff.get() == 0 && t.t_rtx.get() != 0 {
        t.t_rtx.set(l.env.now.0.saturating_add(SYN_SOON));
        timers::rearm(l, id);
    }
}

/// True unless an answer to our SYN echoes a time at which none was sent (Linux's `tcp_rcv_synsent_state_process`).
pub(crate) fn echoes_our_time(l: &Locked<'_, '_, '_>, s: NetSock<'_>, o: &TcpOpts) -> bool {
    let t = &s.net.tcb;
    let Some((_, echo)) = o.ts.filter(|(_, echo)| *echo != 0) else {
        return true;
    };
    // The measurement of the receive buffer began with the connection, and nothing has come since.
    let at = |i: Instant| Seq(i.ms32().wrapping_add(t.ts_off.get()));
    let (first, now) = (at(Instant(t.drs_time.get())), at(l.env.now));
    !Seq(echo).before(first) && !Seq(echo).after(now)
}

/// How soon, ns: two ticks of Linux at 250 Hz.
const SYN_SOON: u64 = 8 * MS;

/// So many SYNs are sent again before the back-off begins (`net.ipv4.tcp_syn_linear_timeouts` of Linux 6.5 and later).
pub(crate) const LINEAR_SYNS: u32 = 4;

/// The timer of a SYN or SYN-ACK, with back-off.
pub(crate) fn arm_syn_timer(l: &mut Locked<'_, '_, '_>, id: SockId) {
    let s = l.st.net(id);
    let t = &s.net.tcb;
    t.rtx_kind.set(rtx::RTO);
    let backoff = match s.tcp_state() {
        TcpState::SynSent => t.backoff.get().saturating_sub(LINEAR_SYNS),
        _ => t.backoff.get(),
    };
    let wait = rtt::backed_off(t, backoff, &l.st.opts);
    t.t_rtx.set(l.env.now.0.saturating_add(wait));
    timers::rearm(l, id);
}
