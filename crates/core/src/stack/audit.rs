//! Checks what must hold in a stack's memory. Reports, never mends. The caller holds the lock, or nobody is attached.

use super::Stack;
use crate::sock::{Kind, flag};
use core::sync::atomic::Ordering::Relaxed;
use flyover_shm::Idx;

/// What an audit found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Audit {
    /// Sockets in use.
    pub socks: u32,
    /// Buffers tagged as in use.
    pub bufs_tagged: u32,
    /// Buffers that hang in some queue.
    pub bufs_queued: u32,
    /// Buffers that are neither in use nor free for anybody, or free in two ways.
    pub bufs_lost: u32,
    /// Memberships in use.
    pub items: u32,
    /// Queues whose walk did not end.
    pub endless: u32,
    /// Buffers in a queue that are tagged free.
    pub bufs_free_but_queued: u32,
}

impl Audit {
    /// Nothing that cannot be. The caller must have no packet in hand.
    pub fn is_clean(&self) -> bool {
        self.endless == 0
            && self.bufs_lost == 0
            && self.bufs_free_but_queued == 0
            && self.bufs_tagged == self.bufs_queued
    }
}

impl Stack<'_> {
    /// Walks everything, bounded.
    pub fn audit(self) -> Audit {
        let mut a = Audit::default();
        for i in 0..self.state.buf_slots.touched(self.bufs) {
            a.bufs_tagged += u32::from(self.bufs.at(Idx::new(i)).hdr.tag.load(Relaxed) != 0);
        }
        match self.state.buf_slots.listed(self.bufs) {
            Some(listed) => {
                let known = a.bufs_tagged + listed + self.kept_bufs();
                a.bufs_lost = known.abs_diff(self.state.buf_slots.touched(self.bufs));
            }
            None => a.endless += 1,
        }
        for i in 0..self.state.item_slots.touched(self.items) {
            a.items += u32::from(self.items.at(Idx::new(i)).hdr.tag.load(Relaxed) != 0);
        }
        for r in self.each_sock() {
            a.socks += 1;
            self.audit_chain(&mut a, crate::sock::recvq::first(self.sock(r.id)));
            if let Some(s) = self.net_of(r.id) {
                self.audit_chain(&mut a, s.net.sq_head.get());
                self.audit_chain(&mut a, s.net.tcb.ooo.get());
            }
        }
        a
    }

    fn audit_chain(self, a: &mut Audit, head: flyover_shm::OptIdx<super::buf::Buf>) {
        let mut cur = head.opt();
        let mut left = self.limits().bufs;
        while let Some(id) = cur {
            let mut part = Some(id);
            while let Some(p) = part {
                if left == 0 {
                    a.endless += 1;
                    return;
                }
                left -= 1;
                a.bufs_queued += 1;
                a.bufs_free_but_queued += u32::from(self.buf(p).hdr.tag.load(Relaxed) == 0);
                part = self.buf(p).more.get().opt();
            }
            cur = self.buf(id).next.get().opt();
        }
    }

    /// Connections that still owe something to the network although no program holds them, and sockets that some
    /// program holds: what keeps a stack alive.
    pub fn live_sockets(self) -> (u32, u32) {
        let (mut held, mut orphans) = (0, 0);
        for r in self.each_sock() {
            let s = self.sock(r.id);
            match s.kind() {
                Kind::Tcp if s.has(flag::ORPHAN) => orphans += 1,
                Kind::Free => {}
                _ => held += 1,
            }
        }
        (held, orphans)
    }
}
