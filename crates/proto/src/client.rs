//! The blocking client of `flyoverd`. One request at a time; no threads; bounded in time: whatever the daemon does, a
//! call returns after [`REPLY_TIMEOUT`] without a sign of life, and the daemon then counts as absent.
//!
//! After any error but [`ClientError::Refused`] the connection is finished, and every further call answers
//! [`ClientError::Absent`] at once, until [`Client::reconnect`] (`rejoin.rs`).

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::time::Duration;

use flyover_wire::Ip;
use rustix::event::Timespec;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use rustix::thread::nanosleep;

use crate::channel::{Deadline, Packet, recv, send};
use crate::fds::{FdBag, move_high};
use crate::keeper::KeeperLink;
use crate::limits::{MAX_MESSAGE, MAX_NICS, MAX_WHOLE_TEXT, REPLY_TIMEOUT, TOTAL_TIMEOUT, VERSION};
use crate::{
    Attach, Attached, CodecError, Connection, List, NicDesc, RefusedCode, Reply, Request, TcpImage,
};

/// Why a call did not succeed.
#[derive(Debug)]
pub enum ClientError {
    /// No daemon there, or it went away, or an earlier call failed for good.
    Absent(Errno),
    /// No sign of life from the daemon in time.
    Timeout,
    /// The daemon said no. The connection is still good.
    Refused(RefusedCode, String),
    /// The daemon sent what it should not.
    Protocol(&'static str),
}

impl std::fmt::Display for ClientError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Absent(e) => write!(f, "cannot reach flyoverd: {e}"),
            Self::Timeout => f.write_str("flyoverd does not answer"),
            Self::Refused(_, text) => write!(f, "flyoverd refuses: {text}"),
            Self::Protocol(what) => write!(f, "flyoverd sent nonsense: {what}"),
        }
    }
}

impl std::error::Error for ClientError {}

impl From<CodecError> for ClientError {
    fn from(_: CodecError) -> Self {
        Self::Protocol("a message that cannot be read")
    }
}

/// The descriptors that come with `Attached`.
#[derive(Debug)]
pub struct AttachedFds {
    /// The stack's memory.
    pub stack: OwnedFd,
    /// The control plane's memory, read-only.
    pub cplane: OwnedFd,
    /// The channel to the keeper.
    pub keeper: KeeperLink,
    /// Keeps the flow programs at the interfaces; an ordinary user's daemon has none.
    pub keepalive: Option<OwnedFd>,
    /// One entry per [`NicDesc`], in the same order.
    pub nics: Vec<NicFds>,
}

/// The descriptors of one V-NIC.
#[derive(Debug)]
pub struct NicFds {
    /// The packet or AF_XDP socket.
    pub sock: OwnedFd,
    /// The memory of an AF_XDP socket's frames.
    pub umem: Option<OwnedFd>,
}

/// A connection to `flyoverd`.
#[derive(Debug)]
pub struct Client {
    pub(crate) sock: Option<OwnedFd>,
    /// Keeps the number of a connection that is finished, for the next one.
    pub(crate) finished: Option<OwnedFd>,
    buf: Box<[u8]>,
    seq: u32,
    pub(crate) silence: Duration,
    /// Silence does not finish the connection while this is asked (`patience.rs`).
    pub(crate) goes_on: bool,
    /// Answers to earlier requests may come: they are too late.
    pub(crate) late: bool,
}

impl Client {
    /// Connects to the socket at `path` (a leading `@` means an abstract name, unix(7)) and says hello. `layout_hash`
    /// is that of `flyover-core`, or 0 for a tool that maps no stack.
    ///
    /// # Errors
    /// [`ClientError::Absent`] when nobody listens; [`ClientError::Refused`] when the versions differ.
    pub fn connect(path: &[u8], layout_hash: u64) -> Result<Self, ClientError> {
        Self::connect_within(path, layout_hash, REPLY_TIMEOUT)
    }

    /// As [`Self::connect`], with another limit for silence of the daemon.
    ///
    /// # Errors
    /// As [`Self::connect`].
    pub fn connect_within(
        path: &[u8],
        layout_hash: u64,
        silence: Duration,
    ) -> Result<Self, ClientError> {
        let sock = dial(path, Deadline::after(silence)).map_err(ClientError::Absent)?;
        let buf = vec![0; MAX_MESSAGE].into_boxed_slice();
        let mut client = Self {
            sock: Some(move_high(sock)),
            finished: None,
            buf,
            seq: 0,
            silence,
            goes_on: false,
            late: false,
        };
        client.hello(layout_hash)?;
        Ok(client)
    }

    pub(crate) fn hello(&mut self, layout_hash: u64) -> Result<(), ClientError> {
        match self.ask(
            &Request::Hello {
                version: VERSION,
                layout_hash,
            },
            &[],
        )? {
            (Reply::Welcome { .. }, _) => Ok(()),
            _ => Err(self.broken("no welcome")),
        }
    }

    /// The descriptor, for the tables of who owns which number. `None` after a failure.
    pub fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        self.sock.as_ref().map(|fd| fd.as_fd())
    }

    /// Uses a stack. Once per connection.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub fn attach(&mut self, attach: Attach) -> Result<(Attached, AttachedFds), ClientError> {
        self.attach_with(attach, &[])
    }

    /// Attaches to the stack whose memory is `memory` ([`StackName::Inherited`](crate::StackName::Inherited)).
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub fn attach_inherited(
        &mut self,
        attach: Attach,
        memory: BorrowedFd<'_>,
    ) -> Result<(Attached, AttachedFds), ClientError> {
        self.attach_with(attach, &[memory])
    }

    fn attach_with(
        &mut self,
        attach: Attach,
        proof: &[BorrowedFd<'_>],
    ) -> Result<(Attached, AttachedFds), ClientError> {
        let (reply, mut fds) = self.ask(&Request::Attach { attach }, proof)?;
        let Reply::Attached { attached } = reply else {
            return Err(self.broken("no stack"));
        };
        let (Some(stack), Some(cplane), Some(keeper)) = (fds.pop(), fds.pop(), fds.pop()) else {
            return Err(self.broken("a stack without descriptors"));
        };
        let keepalive = match attached.local_only {
            true => None,
            false => match fds.pop() {
                None => return Err(self.broken("a stack that nothing keeps")),
                kept => kept,
            },
        };
        let nics = self.nic_fds(&attached.nics, &mut fds)?;
        Ok((
            attached,
            AttachedFds {
                stack,
                cplane,
                keeper: KeeperLink::new(keeper),
                keepalive,
                nics,
            },
        ))
    }

    /// The V-NICs of the attached stack and the generation of the list.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub fn nics(&mut self) -> Result<(u32, List<NicDesc, MAX_NICS>, Vec<NicFds>), ClientError> {
        match self.ask(&Request::Nics {}, &[])? {
            (Reply::NicList { nic_gen, nics }, mut fds) => {
                let list = self.nic_fds(&nics, &mut fds)?;
                Ok((nic_gen, nics, list))
            }
            _ => Err(self.broken("no list of V-NICs")),
        }
    }

    /// Lets the kernel go on with a connection; `sock` is its kernel socket, `data` holds its bytes. Returns the number
    /// of the exception that keeps the flow with the kernel.
    ///
    /// # Errors
    /// Any [`ClientError`]; after [`ClientError::Refused`] the kernel socket is as it was.
    pub fn handover(
        &mut self,
        image: TcpImage,
        sock: BorrowedFd<'_>,
        data: Option<BorrowedFd<'_>>,
    ) -> Result<u32, ClientError> {
        let both: Vec<BorrowedFd<'_>> = std::iter::once(sock).chain(data).collect();
        match self.ask(&Request::Handover { image }, &both)? {
            (Reply::FilterAdded { id }, _) => Ok(id),
            _ => Err(self.broken("no exception")),
        }
    }

    /// Looks whether the packets of a connection that the kernel has come in where the stack receives; `sock` is its socket.
    /// `sole`: as [`Request::Watch`] has it. Returns the number of the exception that keeps it with the kernel.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub fn watch(
        &mut self,
        flow: Connection,
        sole: bool,
        sock: BorrowedFd<'_>,
    ) -> Result<u32, ClientError> {
        match self.ask(&Request::Watch { flow, sole }, &[sock])? {
            (Reply::FilterAdded { id }, _) => Ok(id),
            _ => Err(self.broken("no exception")),
        }
    }

    /// Takes a connection over from the kernel; `sock` is its socket, `pass` the exception that keeps it there (0: none).
    /// `seen`, `sole`: as [`Request::Takeover`] has them. Returns the connection, its filter, and a file with its bytes.
    ///
    /// # Errors
    /// Any [`ClientError`]; after [`ClientError::Refused`] the kernel has it as before.
    pub fn takeover(
        &mut self,
        flow: Connection,
        pass: u32,
        (seen, sole): (bool, bool),
        sock: BorrowedFd<'_>,
    ) -> Result<(TcpImage, u32, Option<OwnedFd>), ClientError> {
        let order = Request::Takeover {
            flow,
            pass,
            seen,
            sole,
        };
        match self.ask(&order, &[sock])? {
            (Reply::TakenOver { image, id }, mut fds) => Ok((image, id, fds.pop())),
            _ => Err(self.broken("no connection")),
        }
    }

    /// A descriptor of the other end of a connection within this host, which a process of our stack holds; `sock` is our
    /// end, `inode` the number of the other one.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub fn borrow_end(&mut self, inode: u32, sock: BorrowedFd<'_>) -> Result<OwnedFd, ClientError> {
        match self.ask(&Request::Borrow { inode }, &[sock])? {
            (Reply::Borrowed {}, mut fds) => fds.pop().ok_or_else(|| self.broken("no descriptor")),
            _ => Err(self.broken("no descriptor")),
        }
    }

    /// Steers flows no longer.
    ///
    /// # Errors
    /// [`ClientError::Absent`] or [`ClientError::Timeout`].
    pub fn del_filter(&mut self, id: u32) -> Result<(), ClientError> {
        self.tell_lightly(&Request::DelFilter { id })
    }

    /// Narrows a filter to these connections (at most [`MAX_NARROW`](crate::MAX_NARROW)); no answer.
    ///
    /// # Errors
    /// [`ClientError::Absent`] or [`ClientError::Timeout`].
    pub fn narrow(
        &mut self,
        id: u32,
        to: impl IntoIterator<Item = Connection>,
    ) -> Result<(), ClientError> {
        let deadline = Deadline::after(self.silence);
        let to = List::new(to);
        self.tell(&Request::Narrow { id, to }, &[], deadline)
            .map(|_| ())
    }

    /// Asks for the resolution of a neighbour; does not wait, a lost request is repeated by the stack.
    pub fn resolve(&mut self, ifindex: u32, ip: Ip) {
        let Some(sock) = &self.sock else { return };
        let mut small = [0u8; 64];
        self.seq = self.seq.wrapping_add(1);
        if let Ok(len) = (Request::Resolve { ifindex, ip }).encode(self.seq, &mut small) {
            let _: Result<(), Errno> = send(sock.as_fd(), &small[..len], &[], Deadline::NOW);
        }
    }

    /// Lets this process count as a client until it ends, also without this connection.
    ///
    /// # Errors
    /// [`ClientError::Absent`] or [`ClientError::Timeout`].
    pub fn stay(&mut self) -> Result<(), ClientError> {
        let deadline = Deadline::after(self.silence);
        self.tell(&Request::Stay {}, &[], deadline).map(|_| ())
    }

    /// The daemon's stacks as JSON.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub fn ps(&mut self) -> Result<String, ClientError> {
        self.text(&Request::Ps {})
    }

    /// What the daemon can do for our namespace, as JSON.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub fn check(&mut self) -> Result<String, ClientError> {
        self.text(&Request::Check {})
    }

    /// The memory of a stack, its length in bytes and its options as words.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub fn stack_fd(&mut self, stack_id: u32) -> Result<(OwnedFd, u64, Vec<u64>), ClientError> {
        let (reply, mut fds) = self.ask(&Request::StackFd { stack_id }, &[])?;
        match (reply, fds.pop()) {
            (Reply::StackInfo { stack_len, opts }, Some(fd)) => {
                Ok((fd, stack_len, opts.into_vec()))
            }
            _ => Err(self.broken("no stack memory")),
        }
    }

    fn nic_fds(&mut self, nics: &[NicDesc], fds: &mut FdBag) -> Result<Vec<NicFds>, ClientError> {
        let mut list = Vec::with_capacity(nics.len());
        for nic in nics {
            let Some(sock) = fds.pop() else {
                return Err(self.broken("a V-NIC without descriptors"));
            };
            let umem = if nic.fd_count() == 2 { fds.pop() } else { None };
            list.push(NicFds { sock, umem });
        }
        Ok(list)
    }

    fn text(&mut self, request: &Request) -> Result<String, ClientError> {
        let total = Deadline::after(TOTAL_TIMEOUT);
        let deadline = Deadline::after(self.silence);
        let seq = self.tell(request, &[], deadline)?;
        let mut whole = String::new();
        loop {
            match self.answer(seq, total)? {
                (Reply::Text { more, text }, _) => {
                    whole.push_str(text.as_str());
                    if !more {
                        return Ok(whole);
                    }
                    if whole.len() > MAX_WHOLE_TEXT {
                        return Err(self.broken("an endless text"));
                    }
                }
                _ => return Err(self.broken("no text")),
            }
        }
    }

    pub(crate) fn ask(
        &mut self,
        request: &Request,
        fds: &[BorrowedFd<'_>],
    ) -> Result<(Reply, FdBag), ClientError> {
        let deadline = Deadline::after(self.silence);
        let seq = self.tell(request, fds, deadline)?;
        self.answer(seq, Deadline::after(TOTAL_TIMEOUT.max(self.silence)))
    }

    pub(crate) fn tell(
        &mut self,
        request: &Request,
        fds: &[BorrowedFd<'_>],
        deadline: Deadline,
    ) -> Result<u32, ClientError> {
        let Some(sock) = &self.sock else {
            return Err(ClientError::Absent(Errno::NOTCONN));
        };
        self.seq = self.seq.wrapping_add(1);
        let len = request.encode(self.seq, &mut self.buf)?;
        match send(sock.as_fd(), &self.buf[..len], fds, deadline) {
            Ok(()) => Ok(self.seq),
            Err(Errno::TIMEDOUT) if self.goes_on => Err(ClientError::Timeout),
            Err(e) => Err(self.lost(e)),
        }
    }

    /// The reply to request `seq`: at most `self.silence` without any message, and until `total` in all.
    fn answer(&mut self, seq: u32, total: Deadline) -> Result<(Reply, FdBag), ClientError> {
        loop {
            let Some(sock) = &self.sock else {
                return Err(ClientError::Absent(Errno::NOTCONN));
            };
            let deadline = Deadline::after(self.silence).min(total);
            let (len, mut fds) = match recv(sock.as_fd(), &mut self.buf, deadline) {
                Ok(Packet::Message(len, fds)) => (len, fds),
                Ok(Packet::Closed) => return Err(self.lost(Errno::PIPE)),
                Err(e) => return Err(self.lost(e)),
            };
            let Ok((got, reply)) = Reply::decode(&self.buf[..len]) else {
                return Err(self.broken("a message that cannot be read"));
            };
            if got != seq && self.late {
                continue;
            }
            if got != seq {
                return Err(self.broken("an answer to another request"));
            }
            match reply {
                Reply::Working {} => {}
                Reply::Refused { code, text } => {
                    return Err(ClientError::Refused(code, text.as_str().to_owned()));
                }
                reply => {
                    fds.move_high();
                    return Ok((reply, fds));
                }
            }
        }
    }

    fn lost(&mut self, e: Errno) -> ClientError {
        if e != Errno::TIMEDOUT || !self.give_up() {
            self.finish();
        }
        if e == Errno::TIMEDOUT {
            ClientError::Timeout
        } else {
            ClientError::Absent(e)
        }
    }

    pub(crate) fn broken(&mut self, what: &'static str) -> ClientError {
        self.finish();
        ClientError::Protocol(what)
    }
}

pub(crate) fn dial(path: &[u8], deadline: Deadline) -> Result<OwnedFd, Errno> {
    let addr = match path.strip_prefix(b"@") {
        Some(name) => SocketAddrUnix::new_abstract_name(name)?,
        None => SocketAddrUnix::new(path)?,
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let sock = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    loop {
        match connect(&sock, &addr) {
            Ok(()) => return Ok(sock),
            Err(Errno::INTR) => {}
            // The queue of the listener is full. poll(2) does not tell when it has room again.
            Err(Errno::AGAIN) if !deadline.passed() => {
                let _ = nanosleep(&Timespec {
                    tv_sec: 0,
                    tv_nsec: 1_000_000,
                });
            }
            Err(e) => return Err(e),
        }
    }
}
