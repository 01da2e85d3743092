//! Local ports lent to a stack, so that its programs connect without asking for each connection. The kernel chooses the
//! ports, and a socket of the daemon holds each of them, so nobody else can bind or connect from it, and nothing is steered
//! to the stack that could be another one's. The keeper has the sockets too: they outlive the daemon.

use std::collections::HashSet;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use flyover_proto::{Control, MAX_LEASE};
use flyover_vnic::host::repair;
use flyover_wire::{Endpoint, Ip};
use rustix::net::{
    AddressFamily, SocketFlags, SocketType, bind, getsockname, socket_with, sockopt,
};

use super::attach::Member;
use super::stack::{Life, Live, Stack};
use crate::daemon::Daemon;
use crate::net::{Net, within};
use crate::refusal::Refusal;
use crate::session::Progress;

/// So many are lent at first; then as many again each time that they are too few.
const FIRST: usize = 64;
/// A stack is lent at most this part of the ports that the kernel chooses from, and all together at most that part.
const SHARE: usize = 64;
const SHARE_OF_ALL: usize = 8;
/// Sockets in one message to the keeper.
const HANDFUL: usize = 64;

/// A port that is lent.
pub struct Lent {
    lease: u64,
    local: Endpoint,
    holder: OwnedFd,
}

impl Member {
    /// The ports of `ip` that the process's stack is lent under the number `lease`, more than `have` if it can be.
    ///
    /// # Errors
    /// There are none; the address is not this host's.
    pub fn lend(
        &self,
        daemon: &Daemon,
        (ip, have, lease): (Ip, usize, u64),
        progress: &mut Progress<'_>,
    ) -> Result<Vec<u16>, Refusal> {
        if ip.is_unspecified() || ip.is_v6_link_local() {
            return Err(Refusal::bad("ports of such an address are not lent"));
        }
        let mut life = self.stack.life_for(progress);
        let Life::Live(live) = &mut *life else {
            return Err(Refusal::bad("the stack has ended"));
        };
        end_leases(&self.stack, live, lease);
        let ports = |live: &Live| -> Vec<u16> {
            let here = live.lent.iter().filter(|l| l.local.ip == ip);
            here.map(|l| l.local.port).collect()
        };
        let known = ports(live).len();
        if have >= known {
            let most = daemon.opts.stack_filters as usize;
            let wanted = known.max(FIRST).min(MAX_LEASE - live.lent.len());
            lend_more(&self.stack, live, (ip, wanted, lease), most)?;
        }
        Ok(ports(live))
    }
}

fn lend_more(
    stack: &Stack,
    live: &mut Live,
    (ip, wanted, lease): (Ip, usize, u64),
    most: usize,
) -> Result<(), Refusal> {
    let (avoid, all) = {
        let flows = live.net.flows();
        (flows.ports_in_use(ip), flows.lent_to_all())
    };
    let own = live.lent.len();
    let held = within(live.net.ns(), || {
        let range = ephemeral();
        let room = (range / SHARE).saturating_sub(own);
        let room = room.min((range / SHARE_OF_ALL).saturating_sub(all));
        hold(ip, wanted.min(room), &avoid)
    });
    let held = held.map_err(|e| Refusal::failed("holding ports", e))?;
    let before = live.lent.len();
    for (port, holder) in held {
        let local = Endpoint { ip, port };
        if let Err(e) = live.net.flows().lend(stack.id, lease, local, most) {
            tracing::warn!(stack = stack.id, "a port is not lent: {e}");
            break;
        }
        live.lent.push(Lent {
            lease,
            local,
            holder,
        });
    }
    if let Some(keeper) = &live.keeper {
        give_to_keeper(&live.lent[before..], |message, fds| {
            // When that fails it has died, and the next one is given all of them.
            let _ = keeper.say(message, fds);
        });
    }
    Ok(())
}

/// Shows the keeper what is lent.
pub(super) fn give_to_keeper(lent: &[Lent], mut say: impl FnMut(&Control, &[BorrowedFd<'_>])) {
    for some in lent.chunks(HANDFUL) {
        let fds: Vec<_> = some.iter().map(|l| l.holder.as_fd()).collect();
        if let Some(first) = some.first() {
            say(&Control::Hold { lease: first.lease }, &fds);
        }
    }
}

/// Takes back what was lent under other numbers.
pub(super) fn end_leases(stack: &Stack, live: &mut Live, lease: u64) {
    if live.lent.iter().any(|l| l.lease != lease) {
        // Steered no longer before it is held no longer.
        live.net.flows().end_leases(stack.id, lease);
        live.lent.retain(|l| l.lease == lease);
    }
}

impl Stack {
    /// Nobody in the stack uses lent ports; `lease` is the number of the next ones.
    pub(super) fn lease_over(&self, lease: u64) {
        if let Life::Live(live) = &mut *self.life() {
            end_leases(self, live, lease);
        }
    }
}

/// Holds what a daemon before this one lent: the keeper's sockets, or others' that are of the stack, may hold it too.
pub(super) fn hold_again(net: &Net, stack: u32) -> Vec<Lent> {
    let noted = net.flows().lent(stack);
    let again = |local: &Endpoint| {
        let sock = socket(local.ip)?;
        repair::begin(sock.as_fd())?;
        bind(&sock, &SocketAddr::from((local.ip.to_std(), local.port)))?;
        repair::end(sock.as_fd(), false)?;
        io::Result::Ok(sock)
    };
    let held = within(net.ns(), || {
        let held = noted.iter().map(|(lease, local)| {
            let holder = again(local)?;
            let (lease, local) = (*lease, *local);
            Ok(Lent {
                lease,
                local,
                holder,
            })
        });
        Ok(held.collect::<Vec<io::Result<Lent>>>())
    });
    let held = held.unwrap_or_else(|e| vec![Err(e)]);
    let said = held.into_iter().map(|lent| {
        lent.inspect_err(|e| tracing::warn!(stack, "a lent port is not held: {e}"))
            .ok()
    });
    said.flatten().collect()
}

/// How many ports the kernel chooses from, in the thread's namespace.
fn ephemeral() -> usize {
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range");
    let range = text.ok().and_then(|text| {
        let mut ends = text.split_whitespace().map(str::parse::<usize>);
        Some((ends.next()?.ok()?, ends.next()?.ok()?))
    });
    range.map_or(0, |(low, high)| (high + 1).saturating_sub(low))
}

fn socket(ip: Ip) -> io::Result<OwnedFd> {
    let family = match ip.is_v4() {
        true => AddressFamily::INET,
        false => AddressFamily::INET6,
    };
    let sock = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    if !ip.is_v4() {
        sockopt::set_ipv6_v6only(&sock, true)?;
    }
    Ok(sock)
}

/// Holds `count` ports that the kernel chooses, or as many as there are; none of `avoid`.
fn hold(ip: Ip, count: usize, avoid: &HashSet<u16>) -> io::Result<Vec<(u16, OwnedFd)>> {
    let (mut held, mut aside) = (Vec::with_capacity(count), Vec::new());
    while held.len() < count && aside.len() < count {
        let sock = socket(ip)?;
        if bind(&sock, &SocketAddr::from((ip.to_std(), 0))).is_err() {
            break;
        }
        let port = SocketAddr::try_from(getsockname(&sock)?)?.port();
        match avoid.contains(&port) {
            // Held meanwhile, or the kernel might choose it again.
            true => aside.push(sock),
            false => held.push((port, sock)),
        }
    }
    Ok(held)
}
