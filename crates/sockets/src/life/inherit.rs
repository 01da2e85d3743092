//! What an accepted connection inherits of its listener. The endpoint's share is copied by the stack; here the new
//! kernel socket gets the rest, so that `getsockopt` gives what Linux gives, and a move to the kernel path loses nothing.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use crate::errno::Errno;
use crate::process::{Ep, Sockets};

/// One option that a listener's connections get.
#[derive(Clone, Debug)]
struct Legacy {
    level: i32,
    name: i32,
    value: [u8; 32],
    len: usize,
}

/// What this process knows of its listeners' options: by slot and generation.
#[derive(Debug, Default)]
pub struct Legacies(Mutex<BTreeMap<(u32, u32), List>>);

/// What one listener hands down.
type List = Arc<[Legacy]>;

/// Listeners that are remembered; beyond that they are looked at anew each time.
const MOST: usize = 256;

impl Legacies {
    /// The listener's options have changed, or it is gone.
    pub(crate) fn forget(&self, ep: &Ep) {
        if let Ok(mut known) = self.0.try_lock() {
            let _: Option<List> = known.remove(&key(ep));
        }
    }
}

fn key(ep: &Ep) -> (u32, u32) {
    (ep.sock.id.raw(), ep.sock.generation)
}

impl Sockets {
    /// Sets on `token` what the listener behind `fd` hands down.
    pub(crate) fn hand_down(&self, fd: i32, listener: &Ep, token: i32) {
        for o in self.legacy(fd, listener).iter() {
            let value = o.value.get(..o.len).unwrap_or_default();
            // What cannot be set is not missed before somebody asks for it.
            let _: Result<(), Errno> = self.os.setsockopt(token, o.level, o.name, value);
        }
    }

    /// The lock is only tried: a child of `fork` may find it held for ever by a thread that it has not.
    fn legacy(&self, fd: i32, listener: &Ep) -> List {
        if let Ok(known) = self.legacies.0.try_lock()
            && let Some(list) = known.get(&key(listener))
        {
            return Arc::clone(list);
        }
        let mut list = Vec::new();
        let _: usize = self.each_changed(
            fd,
            listener.v6,
            true,
            |row| row.inherited,
            |row, value| {
                let mut kept = [0u8; 32];
                let doubled = matches!(row.name, libc::SO_SNDBUF | libc::SO_RCVBUF)
                    && row.level == libc::SOL_SOCKET;
                let half = (crate::io::options::int(value) / 2).to_ne_bytes();
                let value = if doubled { &half } else { value };
                for (to, from) in kept.iter_mut().zip(value) {
                    *to = *from;
                }
                list.push(Legacy {
                    level: row.level,
                    name: row.name,
                    value: kept,
                    len: value.len().min(32),
                });
            },
        );
        let list: List = list.into();
        if let Ok(mut known) = self.legacies.0.try_lock()
            && known.len() < MOST
        {
            let _: Option<List> = known.insert(key(listener), Arc::clone(&list));
        }
        list
    }
}
