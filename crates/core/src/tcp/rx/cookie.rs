//! SYN cookies (RFC 4987 section 3.6): a listener with as many half-open connections as it may have keeps nothing of a
//! further SYN. What it has to know of it is in the sequence number and the timestamp of its answer, and comes back in
//! the acknowledgment. Without timestamps there is no room for window scaling and SACK.

use super::listen::{Opened, child_of};
use super::{Seg, count};
use crate::sock::SockId;
use crate::stack::locked::Locked;
use crate::stack::poll::RxPkt;
use crate::tcp::{ecn, tx, user, window};
use crate::time::{Instant, SEC};
use core::sync::atomic::Ordering::Relaxed;
use flyover_wire::{Endpoint, TcpFlags, TcpOpts};

/// The MSS that a cookie can tell, rising: what paths mostly have.
const MSS_V4: [u16; 4] = [536, 1300, 1440, 1460];
const MSS_V6: [u16; 4] = [1220, 1420, 1440, 8940];
/// The clock of cookies, ns.
const TICK: u64 = 60 * SEC;
/// Ticks that a cookie is good for.
const AGE: u32 = 2;
/// How long after its last cookie a listener takes any, ns.
const VALID: u64 = 120 * SEC;
/// The part of a sequence number that is hashed anew with every tick.
const LOW: u32 = 0x00ff_ffff;
/// Bits of a timestamp that tell options: the window's shift, or this for none, SACK and ECN.
const TS_BITS: u32 = 0x3f;
const NO_SCALE: u32 = 0xf;
const TS_SACK: u32 = 0x10;
const TS_ECN: u32 = 0x20;

fn table(remote: Endpoint) -> [u16; 4] {
    if remote.ip.is_v4() { MSS_V4 } else { MSS_V6 }
}

fn clock(l: &Locked<'_, '_, '_>) -> u32 {
    (l.env.now.0 / TICK) as u32
}

/// What is added to the peer's sequence number; `tick` and `mss` are hidden in it.
fn mark(l: &Locked<'_, '_, '_>, ends: (Endpoint, Endpoint), tick: u32, mss: u32) -> u32 {
    let fixed = user::connect::keyed(l, ends, 0);
    let hidden = user::connect::keyed(l, ends, tick.wrapping_add(1)).wrapping_add(mss) & LOW;
    fixed.wrapping_add(tick << 24).wrapping_add(hidden)
}

/// Answers a SYN and forgets it.
pub(super) fn offer(l: &mut Locked<'_, '_, '_>, p: &RxPkt<'_>, seg: &Seg<'_>, listener: SockId) {
    let ends = (p.hdr.destination(), p.hdr.source());
    let peer = user::connect::permitted(&l.st.opts, &seg.hdr.options);
    let wanted = user::connect::mss_of(&peer);
    let table = table(ends.1);
    let index = table.iter().rposition(|mss| u32::from(*mss) <= wanted);
    let iss = seg
        .seq
        .add(mark(l, ends, clock(l), index.unwrap_or(0) as u32));
    let s = l.st.net(listener);
    let mut answer = TcpOpts::default();
    let ecn = peer.ts.is_some() && l.st.opts.ecn != 0 && ecn::is_asked(p, seg.flags);
    if let Some((val, _)) = peer.ts {
        let scale = peer.wscale.map_or(NO_SCALE, |n| u32::from(n.min(14)));
        let sack = if peer.sack_permitted { TS_SACK } else { 0 };
        let mut bits = scale | sack;
        if ecn {
            bits |= TS_ECN;
        }
        answer.ts = Some((own_time(l, ends, bits), val));
        answer.sack_permitted = peer.sack_permitted;
        answer.wscale = peer.wscale.map(|_| window::own_scale(l.st, s) as u8);
    }
    // While a listener listens nothing else is noted here.
    s.net.tcb.challenge_at.set(l.env.now.0.max(1));
    count!(l, tcp_cookies_out);
    tx::send_cookie(l, p, seg, listener, iss, (answer, ecn));
}

/// A time not after now, with `bits` in its last places.
fn own_time(l: &Locked<'_, '_, '_>, ends: (Endpoint, Endpoint), bits: u32) -> u32 {
    let now = l.env.now.ms32();
    let marked = now & !TS_BITS | bits;
    let past = if marked > now {
        marked.wrapping_sub(TS_BITS + 1)
    } else {
        marked
    };
    past.wrapping_add(user::connect::ts_offset(l, ends.0, ends.1))
}

/// What an acknowledgment at a listener is.
pub(super) enum Redeemed {
    /// It answers a cookie: the connection.
    Opens(SockId),
    /// It does, and there is no room: as Linux, it is ignored, and the peer's data brings it again.
    Waits,
    /// Nothing that we know of.
    Stray,
}

/// An acknowledgment that no connection takes, at a listener.
pub(super) fn redeem(
    l: &mut Locked<'_, '_, '_>,
    p: &RxPkt<'_>,
    seg: &Seg<'_>,
    listener: SockId,
) -> Redeemed {
    let s = l.st.net(listener);
    let last = s.net.tcb.challenge_at.get();
    if seg.flags.has(TcpFlags::SYN)
        || last == 0
        || l.env.now.since(Instant(last)) > VALID
        || !l.st.opts.syn_cookies
    {
        return Redeemed::Stray;
    }
    let ends = (p.hdr.destination(), p.hdr.source());
    let irs = seg.seq.back(1);
    let Some(mss) = read(l, ends, seg.ack.back(1).since(irs)) else {
        count!(l, tcp_cookies_bad);
        return Redeemed::Stray;
    };
    if s.net.acc_len.load(Relaxed) > s.net.backlog.get() {
        count!(l, tcp_drop_backlog);
        return Redeemed::Waits;
    }
    let opened = Opened {
        iss: seg.ack.back(1),
        irs,
        window: seg.hdr.window,
        options: told(l, ends, seg, mss),
        ecn: told_ecn(l, ends, seg),
    };
    let Some(child) = child_of(l, p, listener, &opened) else {
        return Redeemed::Waits;
    };
    count!(l, tcp_cookies_in);
    let s = l.st.net(child);
    s.net.tcb.snd_nxt.set(opened.iss.add(1).0);
    s.net
        .tcb
        .rcv_adv
        .set(irs.add(1).add(window::initial(l.st, s, u32::from(mss))).0);
    user::connect::arm_syn_timer(l, child);
    Redeemed::Opens(child)
}

/// The MSS in a cookie, if it is one of ours that is still good.
fn read(l: &Locked<'_, '_, '_>, ends: (Endpoint, Endpoint), cookie: u32) -> Option<u16> {
    let now = clock(l);
    let rest = cookie.wrapping_sub(user::connect::keyed(l, ends, 0));
    let age = now.wrapping_sub(rest >> 24) & 0xff;
    if age >= AGE {
        return None;
    }
    let tick = now.wrapping_sub(age);
    let index = rest.wrapping_sub(user::connect::keyed(l, ends, tick.wrapping_add(1))) & LOW;
    table(ends.1).get(index as usize).copied()
}

/// The SYN asked for ECN.
fn told_ecn(l: &Locked<'_, '_, '_>, ends: (Endpoint, Endpoint), seg: &Seg<'_>) -> bool {
    let told = |echo: u32| echo.wrapping_sub(user::connect::ts_offset(l, ends.0, ends.1));
    let echo = seg.hdr.options.ts.map(|(_, echo)| told(echo));
    l.st.opts.ecn != 0 && echo.is_some_and(|bits| bits & TS_ECN != 0)
}

/// The options of the SYN, as far as the acknowledgment tells them.
fn told(l: &Locked<'_, '_, '_>, ends: (Endpoint, Endpoint), seg: &Seg<'_>, mss: u16) -> TcpOpts {
    let mut o = TcpOpts {
        mss: Some(mss),
        ..TcpOpts::default()
    };
    if let Some((val, echo)) = seg.hdr.options.ts {
        let bits = echo.wrapping_sub(user::connect::ts_offset(l, ends.0, ends.1)) & TS_BITS;
        o.ts = Some((val, echo));
        o.sack_permitted = bits & TS_SACK != 0;
        o.wscale = (bits & NO_SCALE != NO_SCALE).then_some((bits & NO_SCALE) as u8);
    }
    o
}
