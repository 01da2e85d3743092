//! `stack_poll()`: take what the V-NICs received, in bounded batches; fire timers; send what that released.

use super::locked::Locked;
use crate::ip;
use crate::sock::{Kind, SockId};
use core::sync::atomic::Ordering::{Relaxed, Release};
use flyover_shm::OptIdx;
use flyover_vnic::{HEAD_LEN, RxMeta};
use flyover_wire::frame::Headers;

/// A received frame on its way through the stack. Headers were parsed from a private copy.
#[derive(Debug)]
pub(crate) struct RxPkt<'p> {
    /// Index of the V-NIC that has it.
    pub nic: usize,
    /// What the V-NIC says of it.
    pub meta: RxMeta,
    /// Parsed headers.
    pub hdr: Headers,
    /// The copy.
    pub head: &'p [u8; HEAD_LEN],
}

/// Timers fired in one poll, at most.
const TIMER_BUDGET: u32 = 256;

impl Locked<'_, '_, '_> {
    /// Handles up to `budget` frames of each V-NIC, then timers, then transmission. Returns the frames handled.
    pub fn poll(&mut self, budget: u32) -> u32 {
        let st = self.st;
        st.state.attended.store(self.env.now.0, Release);
        st.state
            .poll_seq
            .store(st.state.poll_seq.load(Relaxed).wrapping_add(1), Release);
        let count = self.env.nics.count();
        let first = st.state.rotor.get() as usize;
        let mut total = 0;
        for k in 0..count {
            // Another V-NIC comes first each time, so that none starves.
            total += self.poll_nic((first + k) % count, budget);
        }
        if count > 1 {
            st.state.rotor.set(((first + 1) % count) as u32);
        }
        self.run_timers(TIMER_BUDGET);
        if total > 0 {
            st.state.stats.polls.fetch_add(1, Relaxed);
            self.run_post();
        }
        total
    }

    fn poll_nic(&mut self, i: usize, budget: u32) -> u32 {
        let mut n = 0;
        let mut head = [0u8; HEAD_LEN];
        while n < budget && !self.env.fx.nearly_full() {
            let Some(nic) = self.env.nics.nic(i) else {
                break;
            };
            let Some(meta) = nic.rx_next(&mut head) else {
                break;
            };
            n += 1;
            self.rx_frame(i, meta, &head);
            crate::stretch::place();
            if let Some(nic) = self.env.nics.nic(i) {
                nic.rx_done();
            }
        }
        n
    }

    fn rx_frame(&mut self, nic: usize, meta: RxMeta, head: &[u8; HEAD_LEN]) {
        let stats = &self.st.state.stats;
        stats
            .rx_frames
            .store(stats.rx_frames.load(Relaxed).wrapping_add(1), Relaxed);
        let bytes = stats
            .rx_bytes
            .load(Relaxed)
            .wrapping_add(u64::from(meta.frame_len));
        stats.rx_bytes.store(bytes, Relaxed);
        let seen = head.get(..meta.head_len as usize).unwrap_or(head);
        match flyover_wire::frame::parse(seen, meta.frame_len as usize) {
            Ok(hdr) => ip::rx::handle(
                self,
                &RxPkt {
                    nic,
                    meta,
                    hdr,
                    head,
                },
            ),
            Err(_) => {
                let _: u64 = stats.rx_drop_parse.fetch_add(1, Relaxed);
            }
        }
    }

    /// Puts the socket on the list that is worked through at the end of the batch: many segments, one transmission.
    pub(crate) fn post(&mut self, id: SockId) {
        let st = self.st;
        let s = st.sock(id);
        if s.pqueued.get() != 0 {
            return;
        }
        s.pqueued.set(1);
        s.pnext.set(OptIdx::NONE);
        match st.state.post_tail.get().opt() {
            Some(t) => st.sock(t).pnext.set(id.into()),
            None => st.state.post_head.set(id.into()),
        }
        st.state.post_tail.set(id.into());
    }

    /// Works through that list.
    pub(crate) fn run_post(&mut self) {
        let st = self.st;
        let mut guard = st.limits().socks;
        while let Some(id) = st.state.post_head.get().opt() {
            if guard == 0 {
                break;
            }
            guard -= 1;
            let s = st.sock(id);
            st.state.post_head.set(s.pnext.get());
            if s.pnext.get().opt().is_none() {
                st.state.post_tail.set(OptIdx::NONE);
            }
            s.pqueued.set(0);
            crate::stretch::place();
            if s.kind() == Kind::Tcp {
                crate::tcp::tx::output(self, id);
            }
        }
    }
}
