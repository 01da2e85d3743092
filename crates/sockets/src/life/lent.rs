//! Connections from local ports that the stack is lent.

use flyover_core::sock::{Kind as SockKind, flag};
use flyover_wire::{Endpoint, Ip};

use super::connect::not_begun;
use crate::attach::Attachment;
use crate::entry::Fresh;
use crate::policy::Reason;
use crate::process::{Ep, Sockets};

/// Of `IPPROTO_IP`: `IP_LOCAL_PORT_RANGE` of linux/in.h.
const IP_LOCAL_PORT_RANGE: i32 = 51;

impl Sockets {
    /// From a port that the stack is lent to the SYN; the kernel socket stays unbound, as that of an accepted connection.
    /// `None`: there is no such port.
    pub(super) fn start_leased(
        &self,
        att: &'static Attachment,
        fd: i32,
        fresh: Fresh,
        src: Ip,
        remote: Endpoint,
    ) -> Result<Option<Ep>, Reason> {
        // A range that the program wants the port to be from is the kernel's to keep to.
        let ranged = fresh.opts
            && !matches!(
                self.int_option(fd, libc::IPPROTO_IP, IP_LOCAL_PORT_RANGE),
                Ok(0) | Err(_)
            );
        if src.is_v6_link_local() || ranged || !att.connects_often(src, self.settings.lend_after) {
            return Ok(None);
        }
        // A daemon that took the stack over is to know of this process, as it would by another request.
        let _: bool = att.daemon(|d| d.meet());
        let ep = self.make_endpoint(att, fd, fresh, SockKind::Tcp)?;
        ep.shared().set_flag(flag::AUTO_PORT);
        let connected = att.connect_leased(ep.sock.id, src, remote, fresh.shut.into());
        let done = match connected {
            Ok(true) => self.commit(fd, &ep).map(|()| Some(ep)),
            Ok(false) => Ok(None),
            Err(e) => Err(not_begun(e)),
        };
        if !matches!(done, Ok(Some(_))) {
            self.discard(&ep);
        }
        done
    }
}
