//! `ioctl(2)` requests that concern an endpoint, and the layout of `TCP_INFO`.

use flyover_core::TcpInfo;
use flyover_core::TcpState;
use flyover_core::sock::flag;

use crate::errno::Errno;
use crate::policy::Reason;
use crate::process::{Answer, Ep, Fd, Sockets};

/// `SIOCOUTQNSD` of linux/sockios.h.
const SIOCOUTQNSD: u64 = 0x894B;
/// `SIOCATMARK` of asm-generic/sockios.h.
const SIOCATMARK: u64 = 0x8905;

/// True for requests that an endpoint may have to answer; all take a pointer to an `int`.
pub fn is_ours(request: u64) -> bool {
    matches!(
        request,
        libc::FIONBIO | libc::FIOASYNC | libc::FIONREAD | libc::TIOCOUTQ | SIOCOUTQNSD | SIOCATMARK
    )
}

impl Sockets {
    /// `ioctl(2)`; `arg` is the application's `int`.
    pub fn ioctl(&self, fd: i32, request: u64, arg: &mut [u8]) -> Answer {
        if request == libc::FIOASYNC {
            // As O_ASYNC of fcntl(2).
            if arg.iter().any(|b| *b != 0) {
                let _: bool = self.give_to_kernel(fd, Reason::Option);
            }
            return Answer::Kernel;
        }
        let on = arg.iter().any(|b| *b != 0);
        let (ep, tcp) = match self.look(fd) {
            Fd::Tcp(ep) => (ep, true),
            Fd::Udp(ep) => (ep, false),
            looked if request == libc::FIONBIO && self.may_change(fd, &looked) => {
                return match self.kernel_nonblocking(fd, on) {
                    Err(e) => Answer::Error(e),
                    // If it is an endpoint by now, that may have looked before.
                    Ok(_) => match self.look_after_move(fd) {
                        Fd::Tcp(ep) | Fd::Udp(ep) => self.set_nonblocking(fd, &ep, on),
                        _ => Answer::Value(0),
                    },
                };
            }
            Fd::Kernel | Fd::Fresh(_) | Fd::Epoll(_) => return Answer::Kernel,
        };
        let s = ep.shared();
        if request == libc::FIONBIO {
            return self.set_nonblocking(fd, &ep, on);
        }
        if !tcp {
            // The next datagram's length is known only to whoever queued it; the kernel's half is asked when ours is
            // empty.
            return match (request, ep.att.stack.udp_next_len(ep.sock.id)) {
                (libc::FIONREAD, n) if n > 0 => put(arg, n),
                _ => Answer::Kernel,
            };
        }
        let answer = self.ask_tcp(&ep, request, arg);
        match s.has(flag::HANDED_OVER) || s.has(flag::HANDING_OVER) {
            // It went, or is about to, and what waited in its queues was counted elsewhere.
            true => {
                self.await_move(&ep);
                self.ioctl(fd, request, arg)
            }
            false => answer,
        }
    }

    fn ask_tcp(&self, ep: &Ep, request: u64, arg: &mut [u8]) -> Answer {
        let s = ep.shared();
        let state = s.tcp_state();
        match request {
            _ if state == TcpState::Listen && request != SIOCATMARK => Answer::Error(Errno::EINVAL),
            libc::FIONREAD => put(arg, ep.att.stack.inq(ep.sock.id)),
            libc::TIOCOUTQ => put(arg, ep.att.stack.outq(ep.sock.id)),
            SIOCOUTQNSD => put(arg, ep.att.stack.outq_unsent(ep.sock.id)),
            SIOCATMARK => put(arg, u32::from(ep.att.stack.at_mark(ep.sock.id))),
            _ => Answer::Kernel,
        }
    }

    /// Sets `O_NONBLOCK` where it counts: in the endpoint, and on the kernel socket for whoever reads it there. A
    /// listener's kernel half stays non-blocking always.
    pub(crate) fn set_nonblocking(&self, fd: i32, ep: &Ep, on: bool) -> Answer {
        let s = ep.shared();
        if s.tcp_state() == TcpState::Listen {
            s.put_flag(flag::NONBLOCK, on);
            return Answer::Value(0);
        }
        self.await_move(ep);
        let done = self.kernel_nonblocking(fd, on);
        // In this order: whoever takes the connection over in between finds what is set.
        if done.is_ok() {
            s.put_flag(flag::NONBLOCK, on);
        }
        done.map(|_| 0).into()
    }

    fn kernel_nonblocking(&self, fd: i32, on: bool) -> Result<i32, Errno> {
        let status = self.os.fcntl(fd, libc::F_GETFL, 0)?;
        let new = if on {
            status | libc::O_NONBLOCK
        } else {
            status & !libc::O_NONBLOCK
        };
        self.os.fcntl(fd, libc::F_SETFL, new as usize)
    }
}

fn put(arg: &mut [u8], v: u32) -> Answer {
    for (to, from) in arg.iter_mut().zip(v.to_ne_bytes()) {
        *to = from;
    }
    Answer::Value(0)
}

/// Bytes of `struct tcp_info` (linux/tcp.h) in Linux 6.1, and in Linux 6.18: as much as is filled in.
pub(crate) const INFO_LEN: (usize, usize) = (232, 280);

/// `struct tcp_info` as the kernel lays it out.
pub fn tcp_info(i: &TcpInfo) -> [u8; INFO_LEN.1] {
    let mut b = [0u8; INFO_LEN.1];
    let mut put = |at: usize, v: &[u8]| {
        if let Some(to) = b.get_mut(at..at + v.len()) {
            to.copy_from_slice(v);
        }
    };
    let wscale = (i.snd_wscale & 0xf) | (i.rcv_wscale << 4);
    put(
        0,
        &[
            i.state,
            i.ca_state,
            i.retransmits,
            i.probes,
            i.backoff,
            i.options,
            wscale,
            0,
        ],
    );
    let words = [
        i.rto,
        i.ato,
        i.snd_mss,
        i.rcv_mss,
        i.unacked,
        i.sacked,
        i.lost,
        i.retrans,
        0,
        i.last_data_sent_ms,
        0,
        i.last_data_recv_ms,
        i.last_ack_recv_ms,
        i.pmtu,
        i.rcv_ssthresh,
        i.rtt,
        i.rttvar,
        i.snd_ssthresh,
        i.snd_cwnd,
        i.advmss,
        i.reordering,
        0,
        i.rcv_space,
        i.total_retrans,
    ];
    for (n, w) in words.iter().enumerate() {
        put(8 + 4 * n, &w.to_ne_bytes());
    }
    // pacing_rate, max_pacing_rate at 104, 112: unlimited.
    put(104, &u64::MAX.to_ne_bytes());
    put(112, &u64::MAX.to_ne_bytes());
    put(120, &i.bytes_acked.to_ne_bytes());
    put(128, &i.bytes_received.to_ne_bytes());
    put(136, &i.segs_out.to_ne_bytes());
    put(140, &i.segs_in.to_ne_bytes());
    put(144, &i.notsent_bytes.to_ne_bytes());
    put(148, &i.min_rtt.to_ne_bytes());
    put(152, &i.data_segs_in.to_ne_bytes());
    put(156, &i.data_segs_out.to_ne_bytes());
    put(192, &i.delivered.to_ne_bytes());
    put(200, &i.bytes_sent.to_ne_bytes());
    put(208, &i.bytes_retrans.to_ne_bytes());
    put(216, &i.dsack_dups.to_ne_bytes());
    put(220, &i.reord_seen.to_ne_bytes());
    put(228, &i.snd_wnd.to_ne_bytes());
    put(232, &i.rcv_wnd.to_ne_bytes());
    b
}

/// Adds what one end of a pair did to what the kernel says (`struct tcp_info`) of the connection beside it.
pub fn add_tcp_info(kernels: &mut [u8], i: &TcpInfo) {
    if let Some(state) = kernels.first_mut() {
        *state = i.state;
    }
    // last_data_sent and last_data_recv: the later one. notsent_bytes: the kernel has sent all.
    for (at, v) in [(44, i.last_data_sent_ms), (52, i.last_data_recv_ms)] {
        change(kernels, at, |ms: u32| ms.min(v));
    }
    change(kernels, 144, |_: u32| i.notsent_bytes);
    for (at, v) in [
        (120, i.bytes_acked),
        (128, i.bytes_received),
        (200, i.bytes_sent),
    ] {
        change(kernels, at, |n: u64| n.wrapping_add(v));
    }
    // segs_out, segs_in, data_segs_in, data_segs_out, delivered.
    let (sent, received) = (i.data_segs_out, i.data_segs_in);
    for (at, v) in [
        (136, sent),
        (140, received),
        (152, received),
        (156, sent),
        (192, sent),
    ] {
        change(kernels, at, |n: u32| n.wrapping_add(v));
    }
}

/// Replaces the number at byte `at`, if the kernel has it.
fn change<T: Number>(b: &mut [u8], at: usize, f: impl FnOnce(T) -> T) {
    if let Some(word) = b.get_mut(at..at + size_of::<T>()) {
        let new = f(T::read(word));
        new.write(word);
    }
}

trait Number {
    fn read(b: &[u8]) -> Self;
    fn write(self, b: &mut [u8]);
}

macro_rules! numbers {
    ($($t:ty),*) => {$(
        impl Number for $t {
            fn read(b: &[u8]) -> Self {
                b.try_into().map_or(0, Self::from_ne_bytes)
            }
            fn write(self, b: &mut [u8]) {
                b.copy_from_slice(&self.to_ne_bytes());
            }
        }
    )*};
}
numbers!(u32, u64);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_adds_its_own_to_the_kernels_counts() {
        let mut b = vec![0u8; 210];
        b[0] = 1;
        b[120..128].copy_from_slice(&5u64.to_ne_bytes());
        b[44..48].copy_from_slice(&9u32.to_ne_bytes());
        let i = TcpInfo {
            state: 8,
            bytes_acked: 7,
            last_data_sent_ms: 3,
            data_segs_out: 2,
            ..TcpInfo::default()
        };
        add_tcp_info(&mut b, &i);
        assert_eq!((b[0], b[44], b[120], b[136], b[192]), (8, 3, 12, 2, 2));
        add_tcp_info(&mut b[..3], &i);
    }

    #[test]
    fn tcp_info_has_the_kernels_layout() {
        let i = TcpInfo {
            state: 1,
            rto: 7,
            rtt: 9,
            total_retrans: 5,
            snd_wnd: 3,
            bytes_acked: 8,
            ..TcpInfo::default()
        };
        let b = tcp_info(&i);
        let word = |at: usize| u32::from_ne_bytes(b[at..at + 4].try_into().unwrap());
        assert_eq!(
            (b[0], word(8), word(68), word(100), word(120), word(228)),
            (1, 7, 9, 5, 8, 3)
        );
    }
}
