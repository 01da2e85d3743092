//! A listener or a UDP socket that stops taking packets from the V-NIC and goes on with the kernel socket behind it.

use core::sync::atomic::Ordering;

use crate::io::options::WITHDRAWN;
use crate::process::{Ep, Sockets};

impl Sockets {
    /// No packets come from the V-NIC any longer, and the kernel sends. What is queued can still be read; a listener's
    /// connections stay.
    pub(crate) fn withdraw(&self, ep: &Ep) {
        let before = ep.shared().sopts.fetch_or(WITHDRAWN, Ordering::Relaxed);
        if before & WITHDRAWN == 0 {
            ep.att.locked(|l| l.withdraw(ep.sock.id));
            // What the peer sends after this call is the kernel's.
            ep.att.daemon(|d| d.settle());
        }
    }
}
