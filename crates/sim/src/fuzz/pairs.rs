//! Connections within one host: marks, pairing, and the way back, in any order and with any facts.

use super::Fuzzer;
use crate::net::Net;
use flyover_core::local::{Enter, Facts};
use flyover_core::sock::SockRef;
use flyover_core::stack::deferred::work;
use flyover_wire::Endpoint;

impl Fuzzer {
    pub(super) fn pairs(&mut self, net: &mut Net<'_>) {
        match self.rng.below(12) {
            0 | 1 => self.mark_both(net),
            2..=4 => self.pair(net),
            5 => self.part(net),
            6 => self.call_of_the_kernels(net),
            7 => self.welcome(net),
            8 | 9 => self.send_fast(net),
            10 => self.recv_fast(net),
            _ => self.keep(net),
        }
    }

    fn mark_both(&mut self, net: &mut Net<'_>) {
        if self.socks.len() > 24 {
            return;
        }
        self.port += 2;
        let ip = net.hosts[self.host].ip();
        let (a, b) = (self.port, self.port - 1);
        let [a, b] = [a, b].map(|port| Endpoint { ip, port });
        let cookie = self.rng.word() | 1;
        for (cookie, from, to) in [(cookie, a, b), (cookie ^ 2, b, a)] {
            let v6 = !ip.is_v4();
            if let Ok(s) = self.locked(net, |l| l.local_mark(v6, cookie, from, to, 3)) {
                self.socks.push(s);
            }
        }
    }

    fn pair(&mut self, net: &mut Net<'_>) {
        let Some(s) = self.some() else { return };
        let Some((a, b)) = self.locked(net, |l| {
            l.local_allow(s.id);
            l.local_ends(s.id)
        }) else {
            return;
        };
        let bytes = [(); 2].map(|()| match self.rng.chance(70_000) {
            true => 0,
            false => self.rng.magnitude(10_000),
        });
        let facts = |own: usize| Facts {
            sent: bytes[own],
            read: 0,
            waiting: bytes[1 - own] as u32,
        };
        if self.rng.chance(10_000) {
            self.locked(net, |l| l.local_break_hold(b.sock));
        }
        if self.rng.chance(10_000) {
            self.locked(net, |l| {
                l.local_release(a.sock);
                l.local_release(b.sock);
            });
            return;
        }
        let _ = self.locked(net, |l| l.local_pair((a, facts(0)), (b, facts(1))));
    }

    /// What the kernel held; at times there is less of it than it said.
    fn welcome(&mut self, net: &mut Net<'_>) {
        let Some(s) = self.some() else { return };
        let host = &net.hosts[self.host];
        let n = (host.stack.kernel_bytes(s.id) as usize).min(self.buf.len());
        if !host.stack.local_welcome(s.id, host.me) {
            return;
        }
        let n = match self.rng.chance(10_000) {
            true => n / 2,
            false => n,
        };
        let bytes = self.buf[..n].to_vec();
        let _: bool = self.locked(net, |l| l.local_bring_in(s.id, &bytes));
        net.hosts[self.host].stack.local_welcomed(s.id);
    }

    fn part(&mut self, net: &mut Net<'_>) {
        let Some(s) = self.some() else { return };
        let Ok((own, other)) = self.locked(net, |l| l.local_part(s.id)) else {
            return;
        };
        let back = self.rng.chance(50_000);
        for end in [Some(own), other].into_iter().flatten() {
            let st = net.hosts[self.host].stack;
            let most = self.rng.magnitude(20_000) as usize;
            let n = st.local_copy(end.sock.id, &mut self.buf[..most]);
            st.local_moving(end.sock.id);
            self.locked(net, |l| l.local_moved(end.sock.id, n as u32));
        }
        self.locked(net, |l| match back {
            true => l.local_parted(s.id, 3, 3),
            false => l.local_rejoin(s.id),
        });
    }

    fn call_of_the_kernels(&mut self, net: &mut Net<'_>) {
        let Some(s) = self.some() else { return };
        let st = net.hosts[self.host].stack;
        if st.kernel_enter(s.id) == Enter::Kernel {
            let _: u32 = st.kernel_leave(s.id);
        }
    }

    fn send_fast(&mut self, net: &mut Net<'_>) {
        let Some(s) = self.some() else { return };
        let n = self.rng.magnitude(40_000) as usize;
        let host = &mut net.hosts[self.host];
        let sent = host.stack.local_send_fast(s, &[&self.buf[..n]], host.me);
        if let Some(to) = sent.and_then(|sent| sent.watched) {
            let contended = self.rng.chance(30_000);
            let to = SockRef { id: to, ..s };
            host.defer(to, work::DATA, contended);
        }
    }

    fn recv_fast(&mut self, net: &mut Net<'_>) {
        let Some(s) = self.some() else { return };
        let n = self.rng.magnitude(40_000) as usize;
        let host = &mut net.hosts[self.host];
        let into = &mut self.buf[..n];
        let got = match self.rng.chance(500_000) {
            true => host.stack.local_recv_pieces(s, &mut [into], host.me),
            false => host
                .stack
                .local_recv_plain(s, n, host.me, |n| into.get_mut(..n)),
        };
        // What lies idle is given back now and then.
        if got.is_some_and(|got| got.want_update || got.drained && self.rng.chance(300_000)) {
            host.defer(s, work::WINDOW, false);
        }
    }

    fn keep(&mut self, net: &mut Net<'_>) {
        let Some(s) = self.some() else { return };
        let _: bool = self.locked(net, |l| l.mark_stays(s, 3));
        let st = net.hosts[self.host].stack;
        let _: (bool, Option<SockRef>) = (st.local_has_taken(s.id), st.local_peer(s.id));
    }
}
