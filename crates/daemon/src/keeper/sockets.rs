//! Kernel sockets that processes hand to the keeper: those that it watches, and those that it holds open.

use std::collections::HashMap;
use std::os::fd::{BorrowedFd, OwnedFd};

use flyover_core::{SockRef, Stack};
use flyover_shm::Idx;
use rustix::event::epoll;
use rustix::io::Result;

/// Marks the epoll data of watched sockets; the rest of the keeper's descriptors have small numbers.
const WATCHED: u64 = 1 << 63;
/// Slots have at most this many bits (core's limit is 2^20 sockets).
const SLOT_BITS: u32 = 31;

/// The endpoint that an epoll event of a watched socket is about.
pub fn watched(data: u64) -> Option<SockRef> {
    let slot = (data & !WATCHED) >> 32;
    let id = Idx::new(u32::try_from(slot).ok()?);
    (data & WATCHED != 0).then_some(SockRef {
        id,
        generation: data as u32,
    })
}

/// Registers a kernel socket. The registration lives as long as somebody holds the socket, and holds no reference to
/// it. Edge-triggered: the keeper takes nothing out, and must hear only of news.
///
/// # Errors
/// As epoll_ctl(2).
pub fn watch(epoll: BorrowedFd<'_>, sock: SockRef, fd: BorrowedFd<'_>) -> Result<()> {
    let slot = u64::from(sock.id.raw() & ((1 << SLOT_BITS) - 1));
    let data = epoll::EventData::new_u64(WATCHED | slot << 32 | u64::from(sock.generation));
    let flags = epoll::EventFlags::IN | epoll::EventFlags::ET;
    match epoll::add(epoll, fd, data, flags) {
        // Handed over again, by a process that inherited it or for another endpoint.
        Err(rustix::io::Errno::EXIST) => epoll::modify(epoll, fd, data, flags),
        other => other,
    }
}

/// Kernel sockets held open until their endpoints are freed.
#[derive(Debug, Default)]
pub struct Parked(HashMap<(u32, u32), OwnedFd>);

impl Parked {
    /// Holds `fd` for `sock`, if that endpoint still exists.
    pub fn park(&mut self, stack: Stack<'_>, sock: SockRef, fd: OwnedFd) {
        if stack.get(sock).is_some() {
            self.0.insert((sock.id.raw(), sock.generation), fd);
        }
    }

    /// The endpoint is freed.
    pub fn close(&mut self, sock: SockRef) {
        self.0.remove(&(sock.id.raw(), sock.generation));
    }

    /// Closes what was missed: a process may have died between freeing an endpoint and telling.
    pub fn sweep(&mut self, stack: Stack<'_>) {
        self.0.retain(|(id, generation), _| {
            stack
                .get(SockRef {
                    id: Idx::new(*id),
                    generation: *generation,
                })
                .is_some()
        });
    }
}
