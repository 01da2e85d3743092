//! Sending: the cached route of a socket, and the one compare that says whether it still holds.

use crate::effects::Effect;
use crate::sock::Sock;
use crate::sock::net::NetSock;
use crate::stack::locked::Locked;
use crate::time::Instant;
use core::sync::atomic::Ordering::Relaxed;
use flyover_cplane::{Fwd, Reason, Resolve};
use flyover_vnic::VnicKind;
use flyover_wire::{Ip, Mac};

/// What a transmission needs to know of the way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Way {
    /// Index of the V-NIC.
    pub nic: usize,
    /// Source MAC.
    pub smac: Mac,
    /// Destination MAC.
    pub dmac: Mac,
    /// Path MTU, bytes of IP packet.
    pub mtu: u32,
}

/// Why nothing can be sent now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoWay {
    /// The neighbour is being resolved.
    Wait,
    /// The tables are being changed right now: ask again.
    Busy,
    /// No route, or one that leads past every V-NIC.
    Unreachable,
}

/// A path MTU takes the lower half of its word; in the upper half stands when it ends, in units of so many seconds.
const PMTU_UNIT: u32 = 4;
const PMTU_BYTES: u32 = 0xffff;
/// The longest time that may be set, a day, in these units.
const PMTU_LONGEST: u16 = (86_400 / PMTU_UNIT + 1) as u16;

/// The path carries packets of `mtu` bytes only; after `lasts` seconds it may carry more (RFC 1191 section 6.3).
pub(crate) fn note_path_mtu(s: NetSock<'_>, mtu: u32, now: Instant, lasts: u32) {
    let until = now.secs32().wrapping_add(lasts) / PMTU_UNIT;
    s.net.pmtu.set(until << 16 | mtu.min(PMTU_BYTES));
}

fn path_mtu_is_over(s: NetSock<'_>, now: Instant) -> bool {
    let until = (s.net.pmtu.get() >> 16) as u16;
    let now = (now.secs32() / PMTU_UNIT) as u16;
    // 16 bits count three days, and the longest time that may be set is one: what seems to end later than that has ended.
    until.wrapping_sub(now) == 0 || until.wrapping_sub(now) > PMTU_LONGEST
}

/// The way out for a connected socket, from its cache while that holds.
pub(crate) fn way(l: &mut Locked<'_, '_, '_>, s: NetSock<'_>) -> Result<Way, NoWay> {
    if s.net.pmtu.get() != 0 && path_mtu_is_over(s, l.env.now) {
        s.net.pmtu.set(0);
        s.net.rt_valid.set(0);
    }
    if s.net.rt_valid.get() == 1 && l.env.cp.version(s.net.rt_row.get()) == s.net.rt_version.get() {
        let nic = s.nic.get();
        if nic != 0 {
            return Ok(cached(s, nic));
        }
    }
    refresh(l, s)
}

fn cached(s: NetSock<'_>, nic: u32) -> Way {
    Way {
        nic: (nic - 1) as usize,
        smac: Mac::from_u64(s.net.rt_smac.get()),
        dmac: Mac::from_u64(s.net.rt_dmac.get()),
        mtu: s.net.rt_mtu.get(),
    }
}

fn refresh(l: &mut Locked<'_, '_, '_>, s: NetSock<'_>) -> Result<Way, NoWay> {
    let st = l.st;
    let _: u64 = st.state.stats.route_refresh.fetch_add(1, Relaxed);
    let (dst, src) = (s.remote().ip, s.local().ip);
    let src = (!src.is_unspecified()).then_some(src);
    let found = lookup(l, dst, src);
    if found == Err(NoWay::Busy) && s.net.rt_valid.get() == 1 && s.nic.get() != 0 {
        // The writer may lose its CPU in the middle of a change. Until it goes on, the last way known serves.
        return Ok(cached(s, s.nic.get()));
    }
    s.net.rt_valid.set(0);
    let fwd = match found {
        Err(NoWay::Wait) if s.net.rt_mtu.get() == 0 => {
            // The MTU is known before the neighbour is: a SYN that waits announces the right MSS.
            note_mtu(l, s, dst, src);
            return Err(NoWay::Wait);
        }
        found => found?,
    };
    // Keep the V-NIC on which the peer's packets come, as long as it is on the right interface.
    let keep = s
        .nic
        .get()
        .checked_sub(1)
        .filter(|n| nic_ifindex(l, *n as usize) == Some(fwd.ifindex));
    let nic = match keep {
        Some(n) => n as usize,
        None => nic_for(l, fwd.ifindex).ok_or(NoWay::Unreachable)?,
    };
    let mtu = clamp_mtu(l, nic, fwd.mtu);
    s.net.rt_row.set(fwd.row);
    s.net.rt_version.set(fwd.version);
    s.net.rt_ifindex.set(fwd.ifindex);
    s.net.rt_smac.set(fwd.smac.to_u64());
    s.net.rt_dmac.set(fwd.dmac.to_u64());
    let mtu = match s.net.pmtu.get() & PMTU_BYTES {
        0 => mtu,
        p => mtu.min(p),
    };
    s.net.rt_mtu.set(mtu);
    s.nic.set(nic as u32 + 1);
    s.net.rt_valid.set(1);
    Ok(cached(s, nic as u32 + 1))
}

fn note_mtu(l: &mut Locked<'_, '_, '_>, s: NetSock<'_>, dst: Ip, src: Option<Ip>) {
    if let Resolve::NeedNeigh { ifindex, mtu, .. } = l.env.cp.resolve(dst, src, 0)
        && let Some(nic) = nic_for(l, ifindex)
    {
        s.net.rt_mtu.set(clamp_mtu(l, nic, mtu));
    }
}

/// A route for one packet, uncached.
pub(crate) fn way_to(
    l: &mut Locked<'_, '_, '_>,
    dst: Ip,
    src: Option<Ip>,
) -> Result<(Way, Ip), NoWay> {
    let fwd = lookup(l, dst, src)?;
    let nic = nic_for(l, fwd.ifindex).ok_or(NoWay::Unreachable)?;
    let mtu = clamp_mtu(l, nic, fwd.mtu);
    Ok((
        Way {
            nic,
            smac: fwd.smac,
            dmac: fwd.dmac,
            mtu,
        },
        fwd.src,
    ))
}

fn lookup(l: &mut Locked<'_, '_, '_>, dst: Ip, src: Option<Ip>) -> Result<Fwd, NoWay> {
    let stats = &l.st.state.stats;
    match l.env.cp.resolve(dst, src, 0) {
        Resolve::Ready(fwd) => Ok(fwd),
        Resolve::NeedNeigh {
            ifindex, nexthop, ..
        } => {
            let _: u64 = stats.tx_no_neigh.fetch_add(1, Relaxed);
            l.env.fx.push(Effect::ResolveNeigh {
                ifindex,
                ip: nexthop,
            });
            Err(NoWay::Wait)
        }
        Resolve::Unreachable(Reason::Busy) => Err(NoWay::Busy),
        _ => {
            let _: u64 = stats.tx_no_route.fetch_add(1, Relaxed);
            Err(NoWay::Unreachable)
        }
    }
}

/// Nothing comes back from the peer: has the kernel check whether the next hop is still there.
pub(crate) fn doubt_neighbour(l: &mut Locked<'_, '_, '_>, s: &Sock) {
    let (dst, src) = (s.remote().ip, s.local().ip);
    if let Resolve::Ready(fwd) = l.env.cp.resolve(dst, Some(src), 0) {
        l.env.fx.push(Effect::ResolveNeigh {
            ifindex: fwd.ifindex,
            ip: fwd.nexthop,
        });
    }
}

fn clamp_mtu(l: &mut Locked<'_, '_, '_>, nic: usize, mtu: u32) -> u32 {
    // An AF_XDP frame holds one packet: its V-NIC's MTU binds whatever the route says.
    match l.env.nics.nic(nic).map(|n| n.caps()) {
        Some(c) if c.kind == VnicKind::Xdp => mtu.min(c.mtu),
        _ => mtu,
    }
}

fn nic_ifindex(l: &mut Locked<'_, '_, '_>, i: usize) -> Option<u32> {
    l.env.nics.nic(i).map(|n| n.caps().ifindex)
}

/// The first V-NIC on this interface.
pub(crate) fn nic_for(l: &mut Locked<'_, '_, '_>, ifindex: u32) -> Option<usize> {
    (0..l.env.nics.count()).find(|i| nic_ifindex(l, *i) == Some(ifindex))
}
