//! ICMP errors of one namespace. V-NICs do not take ICMP: the kernel receives it, but knows nothing of the stacks'
//! flows. So the daemon listens, and tells the stack whose flow an error quotes. `errors.rs`: what a message means.

mod errors;

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;
use rustix::net::sockopt::set_socket_recv_buffer_size;
use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SocketFlags, SocketType, ipproto, recv, socket_with,
};

use crate::netns::NetNs;
use crate::rate::TokenBucket;

pub use errors::{Report, Trouble};

/// Messages looked at in the long run, and at once. What a flood brings beyond that the kernel drops.
const PER_SECOND: u32 = 1000;
const BURST: u32 = 100;
/// Kernel memory for messages that wait, bytes: some hundred.
const ROOM: usize = 128 << 10;
/// Longest message, bytes: a router quotes no more than fits 576 (RFC 1812 section 4.3.2.3) or 1280 (RFC 4443 section
/// 3.1) bytes.
const LONGEST: usize = 2048;
/// Messages of one socket before the other has its turn.
const TURN: u32 = 64;
/// Pause after an unexpected error of a socket.
const PAUSE: Duration = Duration::from_millis(100);

mod filter {
    //! Which types of messages a raw socket receives; a bit of 1 means not (raw(7), RFC 3542 section 3.2).
    use nix::sys::socket::sockopt::SetStruct;
    use nix::{libc, setsockopt_impl};

    /// `linux/icmp.h`
    const ICMP_FILTER: libc::c_int = 1;
    /// `linux/icmpv6.h`
    const ICMPV6_FILTER: libc::c_int = 1;

    #[derive(Clone, Copy, Debug)]
    pub struct V4;
    #[derive(Clone, Copy, Debug)]
    pub struct V6;
    setsockopt_impl!(V4, libc::SOL_RAW, ICMP_FILTER, u32, SetStruct<u32>);
    setsockopt_impl!(
        V6,
        libc::IPPROTO_ICMPV6,
        ICMPV6_FILTER,
        [u32; 8],
        SetStruct<[u32; 8]>
    );
}

/// Listens until it is dropped.
pub struct IcmpService {
    stop: Arc<OwnedFd>,
}

impl IcmpService {
    /// Listens in `ns`, and tells `each` what concerns flows of TCP and UDP, on a thread of its own.
    ///
    /// # Errors
    /// The namespace cannot be entered, or as socket(2), eventfd(2).
    pub fn start(ns: &NetNs, each: impl Fn(Report) + Send + 'static) -> io::Result<Self> {
        let (v4, v6) = ns.run(|| (open_v4(), open_v6()))?;
        let mut ears = vec![Ear {
            sock: v4?,
            read: errors::v4,
        }];
        match v6 {
            Ok(sock) => ears.push(Ear {
                sock,
                read: errors::v6,
            }),
            Err(Errno::AFNOSUPPORT) => {}
            Err(e) => return Err(e.into()),
        }
        let stop = Arc::new(eventfd(0, EventfdFlags::CLOEXEC)?);
        let stopped = Arc::clone(&stop);
        thread::Builder::new()
            .name("icmp".into())
            .stack_size(128 << 10)
            .spawn(move || listen(&ears, &stopped, each))?;
        Ok(Self { stop })
    }
}

impl Drop for IcmpService {
    /// Does not wait for the thread, which may be the caller.
    fn drop(&mut self) {
        if let Err(e) = rustix::io::write(&*self.stop, &1_u64.to_ne_bytes()) {
            tracing::error!("stopping to listen for ICMP errors: {e}");
        }
    }
}

/// A raw socket, and what its messages mean.
struct Ear {
    sock: OwnedFd,
    read: fn(&[u8]) -> Option<Report>,
}

fn open_v4() -> Result<OwnedFd, Errno> {
    use errors::{DEST_UNREACH, PARAMETER_PROBLEM, TIME_EXCEEDED};
    let sock = open(AddressFamily::INET, ipproto::ICMP)?;
    let wanted = 1 << DEST_UNREACH | 1 << TIME_EXCEEDED | 1 << PARAMETER_PROBLEM;
    set_filter(&sock, filter::V4, &!wanted)?;
    Ok(sock)
}

fn open_v6() -> Result<OwnedFd, Errno> {
    use errors::{V6_DEST_UNREACH, V6_PACKET_TOO_BIG, V6_PARAMETER_PROBLEM, V6_TIME_EXCEEDED};
    let sock = open(AddressFamily::INET6, ipproto::ICMPV6)?;
    let wanted = 1 << V6_DEST_UNREACH
        | 1 << V6_PACKET_TOO_BIG
        | 1 << V6_TIME_EXCEEDED
        | 1 << V6_PARAMETER_PROBLEM;
    let mut types = [u32::MAX; 8];
    types[0] = !wanted;
    set_filter(&sock, filter::V6, &types)?;
    Ok(sock)
}

fn open(family: AddressFamily, protocol: Protocol) -> Result<OwnedFd, Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let sock = socket_with(family, SocketType::RAW, flags, Some(protocol))?;
    set_socket_recv_buffer_size(&sock, ROOM)?;
    Ok(sock)
}

fn set_filter<O: nix::sys::socket::SetSockOpt>(
    sock: &OwnedFd,
    which: O,
    types: &O::Val,
) -> Result<(), Errno> {
    nix::sys::socket::setsockopt(sock, which, types).map_err(|e| Errno::from_raw_os_error(e as i32))
}

/// The thread.
fn listen(ears: &[Ear], stop: &OwnedFd, each: impl Fn(Report)) {
    let mut bucket = TokenBucket::new(PER_SECOND, BURST, Instant::now());
    let mut buf = [0; LONGEST];
    loop {
        let mut fds = vec![PollFd::new(stop, PollFlags::IN)];
        fds.extend(
            ears.iter()
                .map(|ear| PollFd::from_borrowed_fd(ear.sock.as_fd(), PollFlags::IN)),
        );
        match poll(&mut fds, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(e) => return tracing::error!("waiting for ICMP errors: {e}"),
        }
        let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        if ready[0] {
            return;
        }
        for (ear, _) in ears.iter().zip(&ready[1..]).filter(|(_, ready)| **ready) {
            for _ in 0..TURN {
                let len = match recv(&ear.sock, &mut buf[..], RecvFlags::TRUNC) {
                    Ok((_, len)) => len,
                    Err(Errno::INTR) => continue,
                    Err(Errno::AGAIN) => break,
                    Err(e) => {
                        tracing::debug!("receiving ICMP errors: {e}");
                        if pause(stop, PAUSE) {
                            return;
                        }
                        break;
                    }
                };
                // The queue fills meanwhile, and the kernel drops what a flood brings.
                if let Err(wait) = bucket.take(Instant::now())
                    && pause(stop, wait)
                {
                    return;
                }
                if let Some(report) = buf.get(..len).and_then(ear.read) {
                    tracing::debug!(?report, "ICMP error");
                    each(report);
                }
            }
        }
    }
}

/// Sleeps; true when it is time to end.
fn pause(stop: &OwnedFd, time: Duration) -> bool {
    let timeout = Timespec::try_from(time).ok();
    let mut fds = [PollFd::new(stop, PollFlags::IN)];
    poll(&mut fds, timeout.as_ref()).is_ok_and(|n| n > 0)
}
