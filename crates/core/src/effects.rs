//! What the stack wants done in the world. The core has no arms: it writes wishes here, and the caller performs
//! them after the lock is dropped.

use crate::outbox::Outbox;
use crate::sock::SockRef;
use crate::stack::wake::WaiterId;
use flyover_wire::Ip;

/// One wish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Wake the sleeping thread that owns this waiter.
    Wake(WaiterId),
    /// Somebody sleeps on the stack lock: `futex_wake` it.
    FutexWakeLock,
    /// The keeper sleeps longer than the earliest deadline: wake it.
    PokeKeeper,
    /// Make the kernel resolve this neighbour.
    ResolveNeigh {
        /// Interface on which the neighbour is.
        ifindex: u32,
        /// Its address.
        ip: Ip,
    },
    /// No connection uses this filter any longer.
    DelFilter(u32),
    /// A listener ended while connections that came through its filter live: the filter is to be narrowed to them
    /// ([`crate::Stack::child_flows`]), so that whoever listens on the port next gets his own connections.
    Narrow {
        /// The filter.
        filter: u32,
        /// The listener's slot, kept until its last connection ends.
        listener: SockRef,
    },
    /// The endpoint is gone: a kernel socket parked for it may be closed.
    CloseParked(SockRef),
}

const CAP: usize = 64;

/// A bounded list of wishes. When it is full, further wakes are kept as one flag: the caller then wakes everybody.
#[derive(Debug)]
pub struct Effects {
    list: [Option<Effect>; CAP],
    len: usize,
    /// More wishes came than fit; the caller wakes every sleeping waiter of the stack.
    pub overflow: bool,
    /// Frames to be sent.
    pub outbox: Outbox,
}

impl Default for Effects {
    fn default() -> Self {
        Self::new()
    }
}

impl Effects {
    /// An empty list.
    pub const fn new() -> Self {
        Self {
            list: [None; CAP],
            len: 0,
            overflow: false,
            outbox: Outbox::closed(),
        }
    }

    /// Adds a wish; the same wish twice in a row is kept once.
    pub fn push(&mut self, e: Effect) {
        if self
            .list
            .iter()
            .take(self.len)
            .rev()
            .take(4)
            .any(|x| *x == Some(e))
        {
            return;
        }
        match self.list.get_mut(self.len) {
            Some(slot) => {
                *slot = Some(e);
                self.len += 1;
            }
            None => self.overflow = true,
        }
    }

    /// True when almost full: pollers stop their batch then, so that wishes are not lost.
    pub fn nearly_full(&self) -> bool {
        self.len > CAP - 16
    }

    /// True when nothing is wished.
    pub fn is_empty(&self) -> bool {
        self.len == 0 && !self.overflow
    }

    /// Takes out the latest wish if it is to wake those who sleep on the lock.
    pub fn first_wakes_lock(&mut self) -> bool {
        let last = self.len.checked_sub(1).and_then(|i| self.list.get(i));
        let is = last == Some(&Some(Effect::FutexWakeLock));
        if is {
            let _: Option<Effect> = self.pop();
        }
        is
    }

    /// Takes out one wish, latest first.
    pub fn pop(&mut self) -> Option<Effect> {
        self.len = self.len.checked_sub(1)?;
        self.list.get_mut(self.len)?.take()
    }
}
