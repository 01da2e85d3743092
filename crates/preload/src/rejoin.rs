//! The connection to `flyoverd`, beyond the death of one: the next daemon takes the stack over, and this process goes on
//! with it, in its old place.

use std::os::fd::{AsRawFd as _, BorrowedFd, RawFd};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use flyover_config::{LogLevel, ProcessOpts};
use flyover_core::LAYOUT_HASH;
use flyover_cplane::Dims;
use flyover_proto::{Client, ClientError};
use flyover_shm::host::Map;

use crate::init::say;
use crate::link::STACK_MEMORY;

/// How long a daemon that is not there is not asked again: looking costs a few microseconds.
const ABSENT: Duration = Duration::from_millis(50);
/// The same of one that does not answer, or that refuses.
const SILENT: Duration = Duration::from_secs(1);
/// How long a daemon that was just started may be silent. A thread of the program waits meanwhile.
const PATIENCE: Duration = Duration::from_millis(250);

/// See the module.
pub struct Way {
    client: Client,
    opts: ProcessOpts,
    owner: u16,
    /// Whose owner slot it is: a child that `vfork` made shares our memory.
    pid: u32,
    tables: &'static Map,
    dims: Dims,
    /// Number of the channel to the keeper.
    keeper: RawFd,
    not_before: Option<Instant>,
    /// The daemon was silent for too long: it is not asked before this time.
    silent: Option<Instant>,
    /// Filters that it was not told to remove, because it did not read.
    owed: Vec<u32>,
}

impl Way {
    /// Of a process that has attached just now.
    pub fn new(
        client: Client,
        opts: ProcessOpts,
        owner: u16,
        (tables, dims): (&'static Map, Dims),
        keeper: RawFd,
    ) -> Self {
        Self {
            client,
            opts,
            owner,
            pid: std::process::id(),
            tables,
            dims,
            keeper,
            not_before: None,
            silent: None,
            owed: Vec::new(),
        }
    }

    /// The options of this process.
    pub fn opts(&self) -> &ProcessOpts {
        &self.opts
    }

    /// The daemon; another one when the last one has died and another one is there.
    pub fn client(&mut self) -> &mut Client {
        let _: bool = self.meet();
        &mut self.client
    }

    /// Has a filter removed, later if the daemon is silent.
    pub fn del_filter(&mut self, id: u32) {
        // Without a daemon the keeper tells the next one.
        if let Err(ClientError::Timeout) = self.again(|client| client.del_filter(id)) {
            self.owed.push(id);
        }
    }

    /// Does `ask` once more when the daemon died meanwhile and another one is there: for what may be done twice.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub fn again<R>(
        &mut self,
        mut ask: impl FnMut(&mut Client) -> Result<R, ClientError>,
    ) -> Result<R, ClientError> {
        if self.silent.is_some_and(|until| Instant::now() < until) {
            return Err(ClientError::Timeout);
        }
        let answer = match self.pay().and_then(|()| ask(self.client())) {
            Err(ClientError::Absent(_)) if self.meet() => ask(&mut self.client),
            r => r,
        };
        let silent = matches!(answer, Err(ClientError::Timeout));
        self.silent = silent.then(|| Instant::now() + SILENT);
        answer
    }

    fn pay(&mut self) -> Result<(), ClientError> {
        while let Some(id) = self.owed.last() {
            match self.client.del_filter(*id) {
                Err(ClientError::Timeout) => return Err(ClientError::Timeout),
                // Told, or the next daemon is.
                Ok(()) | Err(_) => drop(self.owed.pop()),
            }
        }
        Ok(())
    }

    /// True when a daemon is there that knows this process.
    pub fn meet(&mut self) -> bool {
        if self.client.is_connected() {
            return true;
        }
        let now = Instant::now();
        let early = self.not_before.is_some_and(|at| now < at);
        if early || std::process::id() != self.pid {
            return false;
        }
        let pause = match self.rejoin() {
            Ok(()) => {
                self.not_before = None;
                say(&self.opts, LogLevel::Info, &["another flyoverd is there"]);
                return true;
            }
            Err(ClientError::Absent(_)) => ABSENT,
            Err(e) => {
                say(&self.opts, LogLevel::Info, &[&e.to_string()]);
                SILENT
            }
        };
        self.client.finish();
        self.not_before = Some(now + pause);
        false
    }

    fn rejoin(&mut self) -> Result<(), ClientError> {
        let path = self.opts.socket;
        let path = path.as_str().as_bytes();
        self.client.reconnect(path, LAYOUT_HASH, PATIENCE)?;
        let memory = STACK_MEMORY.load(Ordering::Acquire);
        // SAFETY: the library's own descriptor, which is never closed.
        let memory = unsafe { BorrowedFd::borrow_raw(memory) };
        let back = self.client.rejoin(self.owner, memory)?;
        let len = self.tables.size() as u64;
        if back.cplane_len != len || Dims::from_words(&back.dims) != Some(self.dims) {
            return Err(ClientError::Protocol("tables of other sizes"));
        }
        if let Some(keeper) = back.keeper {
            // SAFETY: dup3(2) touches no memory. The number is the library's own, which nobody closes or reads from.
            unsafe { crate::next::dup3(keeper.as_raw_fd(), self.keeper, libc::O_CLOEXEC) };
        }
        self.tables
            .replace(back.cplane)
            .map_err(|_| ClientError::Protocol("tables that cannot be mapped"))
    }
}
