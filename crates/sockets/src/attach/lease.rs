//! Local ports that the stack is lent, as far as this process knows: who connects often asks for some, and from then on
//! connects without a word to the daemon.

use std::sync::{Arc, Mutex, PoisonError};

use flyover_core::{Error, SockId};
use flyover_wire::{Endpoint, Ip};

use super::{Attachment, DaemonError};

/// The daemon that had no more to lend is asked again after this, ns.
const ASK: u64 = 1_000_000_000;

/// The ports of one address.
#[derive(Debug)]
struct Ports {
    ip: Ip,
    /// Number of the lease.
    lease: u64,
    list: Arc<[u16]>,
    /// Connections so far; not all are counted.
    connects: u32,
    /// The daemon is not asked before this time, ns.
    ask: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Lent(Mutex<Vec<Ports>>);

impl Lent {
    fn with<R>(&self, ip: Ip, f: impl FnOnce(&mut Ports) -> R) -> R {
        let mut of = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = of.iter().position(|p| p.ip == ip).unwrap_or_else(|| {
            of.push(Ports {
                ip,
                lease: 0,
                list: Arc::default(),
                connects: 0,
                ask: 0,
            });
            of.len() - 1
        });
        f(&mut of[at])
    }
}

impl Attachment {
    /// One more connection from `ip`: are they more than `few`? Most programs do not make many.
    pub(crate) fn connects_often(&self, ip: Ip, few: u32) -> bool {
        self.lent.with(ip, |p| {
            p.connects = p.connects.saturating_add(1);
            p.connects > few
        })
    }

    /// Connects `sock` from a lent port, with `shut` as [`Locked::keep_shut`](flyover_core::Locked::keep_shut) takes it.
    /// False: there is none, and nothing has happened.
    ///
    /// # Errors
    /// As [`Locked::tcp_connect`](flyover_core::Locked::tcp_connect).
    pub(crate) fn connect_leased(
        &self,
        sock: SockId,
        ip: Ip,
        remote: Endpoint,
        shut: u32,
    ) -> Result<bool, Error> {
        loop {
            let (lease, list) = self.lent.with(ip, |p| (p.lease, p.list.clone()));
            let connected = self.locked(|l| {
                l.tcp_connect_leased(sock, lease, (ip, &list), remote)
                    .map(|_| l.keep_shut(sock, shut))
            });
            match connected {
                Ok(()) => return Ok(true),
                Err(Error::AddressInUse) if self.ask_for_ports(ip, lease, list.len()) => {}
                Err(Error::AddressInUse) => return Ok(false),
                Err(e) => return Err(e),
            }
        }
    }

    /// Asks the daemon for more than `have` ports. True: there is another list.
    fn ask_for_ports(&self, ip: Ip, lease: u64, have: usize) -> bool {
        let now = self.os.now();
        // Read before the daemon is asked: if the lease ends meanwhile, what it answers is not true any more.
        let present = self.stack.lease();
        let have = if present == lease { have } else { 0 };
        let may = self.lent.with(ip, |p| {
            if p.lease == present && p.list.len() > have {
                // Somebody else has asked.
                return None;
            }
            let may = now >= p.ask;
            p.ask = if may { now.saturating_add(ASK) } else { p.ask };
            Some(may)
        });
        match may {
            None => return true,
            Some(false) => return false,
            Some(true) => {}
        }
        let lent: Result<Vec<u16>, DaemonError> =
            self.daemon(|d| d.lend(ip, u32::try_from(have).unwrap_or(u32::MAX), present));
        match lent {
            Ok(list) if list.len() > have => self.lent.with(ip, |p| {
                (p.lease, p.list) = (present, list.into());
                // There may be more: only who got none is to wait.
                p.ask = 0;
                true
            }),
            Ok(_) | Err(_) => false,
        }
    }
}
