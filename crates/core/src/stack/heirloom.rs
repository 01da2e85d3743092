//! What a keeper leaves to the next one: the ends of kernel sockets that were reported to it and that it has not looked
//! into yet. A report comes once; if it were only in the memory of a keeper that is killed, the endpoint would stay for ever.

use super::Stack;
use core::sync::atomic::Ordering::{Acquire, Release};

/// Reports that are kept. A keeper takes some hundred at a time.
pub const NOTES: usize = 1024;

impl Stack<'_> {
    /// Notes the cookie of a socket that ended, the `n`th since [`forget_deaths`](Self::forget_deaths). False: no room.
    pub fn note_death(self, n: usize, cookie: u64) -> bool {
        let place = self.state.deaths.get(n);
        if let Some(place) = place {
            place.store(cookie, Release);
        }
        place.is_some()
    }

    /// Cookies that were noted and not forgotten.
    pub fn noted_deaths(self) -> impl Iterator<Item = u64> {
        let noted = self.state.deaths.iter().map(|place| place.load(Acquire));
        noted.filter(|cookie| *cookie != 0)
    }

    /// Cookies of the kernel sockets behind all endpoints.
    pub fn cookies(self) -> impl Iterator<Item = u64> {
        let all = self.each_sock();
        let cookies = all.map(move |sock| self.sock(sock.id).cookie.load(Acquire));
        cookies.filter(|cookie| *cookie != 0)
    }

    /// The first `n` notes were looked into.
    pub fn forget_deaths(self, n: usize) {
        // The last one first: at any moment the notes are those in front.
        for place in self.state.deaths.iter().take(n).rev() {
            place.store(0, Release);
        }
    }
}
