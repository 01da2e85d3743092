//! `getsockopt(2)`: the kernel socket answers, except for what only the endpoint knows.

use core::sync::atomic::{AtomicUsize, Ordering};

use flyover_core::TcpState;
use flyover_core::sock::flag;
use flyover_core::time::Instant;

use crate::addr::Addr;
use crate::errno::Errno;
use crate::io::ioctl::{self, INFO_LEN};
use crate::io::options::{self, Act, Form};
use crate::io::sockopt::has_connection;
use crate::process::{Answer, Ep, Fd, Sockets};

/// `SO_PEERNAME` of asm-generic/socket.h.
const SO_PEERNAME: i32 = 28;
/// Of linux/in.h.
const IP_PROTOCOL: i32 = 52;
/// Bytes of `struct tcp_info` in the running kernel; 0: not asked yet.
static KERNEL_INFO_LEN: AtomicUsize = AtomicUsize::new(0);

impl Sockets {
    /// `getsockopt(2)`: the value's length, or the kernel's answer.
    pub fn getsockopt(&self, fd: i32, level: i32, name: i32, into: &mut [u8]) -> Answer {
        let (ep, tcp) = match self.look(fd) {
            Fd::Tcp(ep) => (ep, true),
            Fd::Udp(ep) => (ep, false),
            Fd::Fresh(f) if f.error != 0 && (level, name) == (libc::SOL_SOCKET, libc::SO_ERROR) => {
                return put(into, &self.fetch_error(fd, f).0.to_ne_bytes());
            }
            Fd::Kernel | Fd::Fresh(_) | Fd::Epoll(_) => return Answer::Kernel,
        };
        match (level, name) {
            (libc::SOL_SOCKET, libc::SO_ERROR) if tcp => {
                let e = ep.att.stack.take_any_error(ep.sock.id);
                put(into, &e.to_ne_bytes())
            }
            (libc::SOL_SOCKET, libc::SO_ERROR) => {
                let e = self.take_kernels_error(&ep, fd);
                put(into, &e.to_ne_bytes())
            }
            _ if !tcp => Answer::Kernel,
            (libc::IPPROTO_TCP, libc::TCP_INFO) => self.tcp_info(&ep, fd, into),
            (libc::SOL_SOCKET, SO_PEERNAME) => peer_name(&ep, into),
            _ => self.of_connection(&ep, level, name, into),
        }
    }

    /// The pending error of the kernel socket, which keeps those of a UDP endpoint.
    pub(crate) fn take_kernels_error(&self, ep: &Ep, fd: i32) -> i32 {
        let e = self
            .int_option(fd, libc::SOL_SOCKET, libc::SO_ERROR)
            .unwrap_or(0);
        self.refresh_kernels(ep, fd);
        e
    }

    /// Values that belong to the connection, which the token has not.
    fn of_connection(&self, ep: &Ep, level: i32, name: i32, into: &mut [u8]) -> Answer {
        let s = ep.shared();
        let stack = ep.att.stack;
        let net = has_connection(ep)
            .then(|| stack.net_of(ep.sock.id))
            .flatten();
        // The kernel's connection beside a pair has what the program set, and is what it looks like.
        let paired = s.has(flag::PAIRED);
        let mss = net.map_or(0, |s| s.net.tcb.mss.get());
        let mtu = net.map_or(0, |s| s.net.rt_mtu.get());
        match (level, name) {
            (libc::IPPROTO_TCP, libc::TCP_MAXSEG) if mss != 0 => put(into, &mss.to_ne_bytes()),
            (libc::IPPROTO_TCP, libc::TCP_WINDOW_CLAMP) if has_connection(ep) && !paired => {
                let clamp = match s.wclamp.get() {
                    0 => s.rcvbuf.get(),
                    n => n,
                };
                put(into, &clamp.to_ne_bytes())
            }
            (libc::IPPROTO_IP, libc::IP_MTU) if mtu != 0 => put(into, &mtu.to_ne_bytes()),
            (libc::IPPROTO_IPV6, libc::IPV6_MTU) if ep.v6 && mtu != 0 => {
                put(into, &mtu.to_ne_bytes())
            }
            // For what is not a raw socket, Linux gives the local port.
            (libc::IPPROTO_IP, IP_PROTOCOL) if has_connection(ep) => {
                put(into, &s.lport.get().to_ne_bytes())
            }
            // The token is bound to one address, which alone makes Linux say "IPv6 only".
            (libc::IPPROTO_IPV6, libc::IPV6_V6ONLY) if ep.v6 && has_connection(ep) && !paired => {
                put(into, &u32::from(s.has(flag::V6ONLY)).to_ne_bytes())
            }
            (libc::IPPROTO_IPV6, libc::IPV6_ADDRFORM) if ep.v6 && is_established(ep) => {
                put(into, &libc::AF_INET6.to_ne_bytes())
            }
            // The kernel's connection beside a pair stays established.
            (libc::IPPROTO_IPV6, libc::IPV6_ADDRFORM) if ep.v6 && paired => {
                Answer::Error(Errno::ENOTCONN)
            }
            _ => match options::find(level, name).map(|r| r.act) {
                Some(Act::Opt(opt, Form::Buffer)) => {
                    let set = match name {
                        libc::SO_RCVBUF => s.has(flag::RCVBUF_SET),
                        libc::SO_SNDBUF => s.has(flag::SNDBUF_SET),
                        _ => true,
                    };
                    // The kernel's connection beside a pair has the buffers that the program expects.
                    if set || !has_connection(ep) || s.has(flag::PAIRED) {
                        return Answer::Kernel;
                    }
                    put(into, &stack.opt(ep.sock.id, opt).to_ne_bytes())
                }
                Some(Act::Opt(opt, Form::Offset)) => {
                    let v = (stack.opt(ep.sock.id, opt) as i32).wrapping_sub(1);
                    put(into, &v.to_ne_bytes())
                }
                _ => Answer::Kernel,
            },
        }
    }

    fn tcp_info(&self, ep: &Ep, fd: i32, into: &mut [u8]) -> Answer {
        let state = ep.shared().tcp_state();
        if !has_connection(ep) && state != TcpState::Listen {
            return Answer::Kernel;
        }
        let mut kernels = [0u8; 512];
        if state == TcpState::Listen || KERNEL_INFO_LEN.load(Ordering::Relaxed) == 0 {
            let asked = self
                .os
                .getsockopt(fd, libc::IPPROTO_TCP, libc::TCP_INFO, &mut kernels);
            let n = asked.unwrap_or(0).clamp(INFO_LEN.0, INFO_LEN.1);
            KERNEL_INFO_LEN.store(n, Ordering::Relaxed);
        }
        let len = KERNEL_INFO_LEN.load(Ordering::Relaxed);
        if state == TcpState::Listen {
            // tcpi_unacked of a listener: connections that wait to be accepted, of both halves.
            if let Some(word) = kernels.get_mut(24..28) {
                let both = options::int(word) as u32 + ep.att.stack.to_accept(ep.sock.id);
                word.copy_from_slice(&both.to_ne_bytes());
            }
            return put(into, kernels.get(..len).unwrap_or_default());
        }
        let info = ep.att.stack.tcp_info(ep.sock.id, Instant(self.os.now()));
        if ep.shared().has(flag::PAIRED) {
            let asked = self
                .os
                .getsockopt(fd, libc::IPPROTO_TCP, libc::TCP_INFO, &mut kernels);
            let n = asked.unwrap_or(0).min(kernels.len());
            let both = kernels.get_mut(..n).unwrap_or_default();
            ioctl::add_tcp_info(both, &info);
            return put(into, both);
        }
        put(into, ioctl::tcp_info(&info).get(..len).unwrap_or_default())
    }
}

fn is_established(ep: &Ep) -> bool {
    ep.shared().tcp_state() == TcpState::Established
}

/// Linux refuses a buffer that is longer than the name.
fn peer_name(ep: &Ep, into: &mut [u8]) -> Answer {
    let state = ep.shared().tcp_state();
    if matches!(
        state,
        TcpState::Closed | TcpState::Listen | TcpState::SynSent
    ) {
        return Answer::Error(Errno::ENOTCONN);
    }
    let addr = Addr::inet(ep.shared().remote(), ep.v6);
    if addr.as_bytes().len() < into.len() {
        return Answer::Error(Errno::EINVAL);
    }
    put(into, addr.as_bytes())
}

/// Copies an option's value out, cut to the application's buffer as the kernel does.
fn put(into: &mut [u8], value: &[u8]) -> Answer {
    let n = into.len().min(value.len());
    for (to, from) in into.iter_mut().zip(value) {
        *to = *from;
    }
    Answer::Value(n)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_cut_to_the_buffer() {
        let mut two = [0xffu8; 2];
        assert_eq!(put(&mut two, &1i32.to_ne_bytes()), Answer::Value(2));
        assert_eq!(two, [1, 0]);
    }
}
