//! Listeners and datagram sockets that were withdrawn take from the V-NICs again.

use core::sync::atomic::Ordering;

use flyover_core::sock::{Kind as SockKind, Sock, flag};

use crate::errno::Errno;
use crate::io::options::WITHDRAWN;
use crate::life::takeover::{TakeOver, is_away};
use crate::local::diag;
use crate::policy::Reason;
use crate::process::{Ep, Sockets};

/// How often the kernel's connections that are just being opened are waited for, and how long after one another, ns.
const OPENINGS: u32 = 20;
const OPENING_NS: u64 = 10_000_000;
/// A packet passes from the device to the kernel's socket within this time, ns.
const PASSING_NS: u64 = 500_000;

impl Sockets {
    /// A listener or datagram socket that was withdrawn gets its filter again.
    pub(super) fn resume(&self, fd: i32, ep: &Ep) -> TakeOver {
        let s = ep.shared();
        if s.sopts.load(Ordering::Relaxed) & WITHDRAWN == 0 {
            return TakeOver::Here;
        }
        if !Reason::from_code(s.reason.get() as u8).may_return() {
            return self.stays(ep);
        }
        let steered = match s.kind() {
            SockKind::Tcp => self.steer_listener(fd, ep),
            _ => self.steer(fd, ep),
        };
        let old = match steered {
            Ok(old) => old,
            Err(why) => return TakeOver::Stays(why.to_owned()),
        };
        if old != 0 {
            ep.att.daemon(|d| d.del_filter(old));
        }
        s.reason.set(0);
        if s.kind() == SockKind::Tcp {
            ep.att.locked(|_| s.clear_flag(flag::WITHDRAWN));
        }
        let _: u32 = s.sopts.fetch_and(!WITHDRAWN, Ordering::Relaxed);
        TakeOver::Resumed
    }

    /// Steers what is for a listener or datagram socket to the stack. Returns the filter that it had before: the narrow one
    /// of a listener's connections goes when the wide one is there.
    fn steer(&self, fd: i32, ep: &Ep) -> Result<u32, &'static str> {
        let s = ep.shared();
        let old = s.filter.get();
        let remote = Some(s.remote()).filter(|r| r.port != 0);
        self.add_filter(ep, fd, s.local(), remote, s.has(flag::DUAL))
            .map_err(Reason::name)?;
        Ok(old)
    }

    /// As [`steer`](Self::steer). The kernel may just be opening connections on this port, or have some that nobody has
    /// accepted. Until there is none whose segments would be steered away from it, the stack drops all in silence.
    fn steer_listener(&self, fd: i32, ep: &Ep) -> Result<u32, &'static str> {
        for _ in 0..OPENINGS {
            if self.has_kernels_connections(ep) {
                return Err("the kernel has connections of it");
            }
            let old = self.steer(fd, ep)?;
            // A packet that passed the filter before it was there is through by then.
            let _: Result<usize, Errno> = self.os.ppoll(&mut [], Some(PASSING_NS));
            if !self.has_openings(ep) {
                return Ok(old);
            }
            let wide = ep.shared().filter.get();
            ep.att.locked(|l| l.set_filter(ep.sock.id, old));
            ep.att.daemon(|d| d.del_filter(wide));
            let _: Result<usize, Errno> = self.os.ppoll(&mut [], Some(OPENING_NS));
        }
        Err("the kernel is opening connections of it (try again)")
    }

    /// True when the kernel has connections on the listener's port of which the stack knows nothing, or that were accepted
    /// just now.
    fn has_openings(&self, ep: &Ep) -> bool {
        let stack = ep.att.stack;
        let unknown = |local, remote| {
            let is_it = |s: &Sock| {
                let steered = !is_away(s) || s.filter.get() != 0;
                steered && s.kind() == SockKind::Tcp && s.local() == local && s.remote() == remote
            };
            ep.att
                .locked(|_| !stack.each_sock().any(|r| is_it(stack.sock(r.id))))
        };
        diag::open_on(self.os, ep.shared().lport.get() as u16)
            .into_iter()
            .any(|(local, remote)| unknown(local, remote))
    }

    /// True when the kernel has connections on the listener's port that no exception keeps there: the listener's filter
    /// would take their segments.
    fn has_kernels_connections(&self, ep: &Ep) -> bool {
        let port = ep.shared().lport.get();
        let stack = ep.att.stack;
        let is_one = |s: &Sock| is_away(s) && s.filter.get() == 0 && s.lport.get() == port;
        ep.att
            .locked(|_| stack.each_sock().any(|r| is_one(stack.sock(r.id))))
    }
}
