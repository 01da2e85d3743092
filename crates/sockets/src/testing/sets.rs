//! Epoll sets, as the fake kernel has them: members are open files, each with the number that it had; all are level-triggered.

use std::collections::BTreeMap;

use super::{FakeOs, File, ready};
use crate::errno::Errno;
use crate::os::EpollEvent;

/// Open file and number.
pub(super) type Members = BTreeMap<(usize, i32), EpollEvent>;

impl FakeOs {
    pub(super) fn change_set(
        &self,
        epfd: i32,
        op: i32,
        fd: i32,
        event: Option<EpollEvent>,
    ) -> Result<(), Errno> {
        let key = (self.table().file_of(fd)?, fd);
        self.file(epfd, |f| {
            let File::Epoll(members) = f else {
                return Err(Errno::EINVAL);
            };
            let known = members.contains_key(&key);
            match (op, event) {
                (libc::EPOLL_CTL_ADD, Some(_)) if known => return Err(Errno::EEXIST),
                (libc::EPOLL_CTL_MOD | libc::EPOLL_CTL_DEL, _) if !known => {
                    return Err(Errno::ENOENT);
                }
                (libc::EPOLL_CTL_ADD | libc::EPOLL_CTL_MOD, Some(e)) => {
                    let _: Option<EpollEvent> = members.insert(key, e);
                }
                (libc::EPOLL_CTL_DEL, _) => {
                    let _: Option<EpollEvent> = members.remove(&key);
                }
                _ => return Err(Errno::EINVAL),
            }
            Ok(())
        })
    }

    pub(super) fn collect_set(&self, epfd: i32, into: &mut [EpollEvent]) -> Result<usize, Errno> {
        let members = self.file(epfd, |f| match f {
            File::Epoll(m) => Ok(m.clone()),
            _ => Err(Errno::EINVAL),
        })?;
        let t = self.table();
        let mut n = 0;
        for ((file, _), e) in members {
            let Some(Some(f)) = t.files.get(file) else {
                continue;
            };
            let asked = e.events as i16 | libc::POLLHUP | libc::POLLERR;
            let events = ready(f) & asked;
            if events != 0
                && let Some(to) = into.get_mut(n)
            {
                *to = EpollEvent {
                    events: u32::from(events as u16),
                    data: e.data,
                };
                n += 1;
            }
        }
        Ok(n)
    }

    /// What the set `epfd` watches the number `fd` for.
    pub fn member(&self, epfd: i32, fd: i32) -> Option<EpollEvent> {
        let key = (self.table().file_of(fd).ok()?, fd);
        let found = self.file(epfd, |f| match f {
            File::Epoll(members) => Ok(members.get(&key).copied()),
            _ => Err(Errno::EINVAL),
        });
        found.ok().flatten()
    }
}
