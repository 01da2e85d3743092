//! `TCP_REPAIR`: making a TCP socket of the kernel go on where another TCP stopped. Needs CAP_NET_ADMIN. The options are
//! those of linux/tcp.h; how they work together is nowhere specified but in net/ipv4/tcp.c and by CRIU's use of them.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::sockopt::{set, set_int};

const TCP: i32 = libc::IPPROTO_TCP;
/// `TCP_REPAIR_OFF_NO_WP`: leave without a window probe.
const OFF_SILENTLY: i32 = -1;
/// Kinds of TCP options (RFC 9293 section 3.2, RFC 7323, RFC 2018), as `struct tcp_repair_opt` takes them.
const OPT_MSS: u32 = 2;
const OPT_SCALE: u32 = 3;
const OPT_SACK: u32 = 4;
const OPT_TIMESTAMPS: u32 = 8;
/// `TCPI_OPT_*`.
const INFO_TIMESTAMPS: u8 = 1;
const INFO_SACK: u8 = 2;
const INFO_SCALE: u8 = 4;
const INFO_ECN: u8 = 8;
/// Where `struct tcp_info` has `tcpi_bytes_received`.
const INFO_RECEIVED: usize = 128;
/// `SIOCOUTQNSD` of linux/sockios.h.
const SIOCOUTQNSD: libc::Ioctl = 0x894B;
/// `SO_BUF_LOCK` of asm-generic/socket.h: which buffers were set by hand and do not tune themselves.
const SO_BUF_LOCK: i32 = 72;
/// `SOCK_SNDBUF_LOCK` and `SOCK_RCVBUF_LOCK` of linux/socket.h.
const SNDBUF_LOCK: i32 = 1;
const RCVBUF_LOCK: i32 = 2;

/// `struct tcp_repair_opt`.
#[repr(C)]
#[derive(Clone, Copy)]
struct RepairOpt {
    code: u32,
    value: u32,
}

/// `struct tcp_repair_window`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Window {
    /// Segment sequence number of the last window update.
    pub snd_wl1: u32,
    /// The peer's window, bytes.
    pub snd_wnd: u32,
    /// Its largest one, bytes.
    pub max_window: u32,
    /// Our window, bytes.
    pub rcv_wnd: u32,
    /// RCV.NXT when it was offered.
    pub rcv_wup: u32,
}

/// Which queue of the socket is meant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(i32)]
pub enum Queue {
    /// Neither.
    None = 0,
    /// What arrived and was not read.
    Recv = 1,
    /// What was sent and is not acknowledged.
    Send = 2,
}

/// What was agreed at the handshake.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Agreed {
    /// The peer's MSS, bytes.
    pub mss: u32,
    /// The peer's shift count and ours.
    pub scales: Option<(u32, u32)>,
    /// SACK.
    pub sack: bool,
    /// Timestamps, and where the clock goes on.
    pub timestamp: Option<u32>,
}

/// Enters repair mode: nothing the socket does is seen by the network, and addresses may be shared.
///
/// # Errors
/// EPERM without CAP_NET_ADMIN in the socket's namespace; EINVAL in a wrong state.
pub fn begin(fd: BorrowedFd<'_>) -> io::Result<()> {
    set_int(fd, TCP, libc::TCP_REPAIR, 1)
}

/// Leaves it; `probe`: asks an established peer for an ACK, which tells what was lost meanwhile.
///
/// # Errors
/// As setsockopt(2).
pub fn end(fd: BorrowedFd<'_>, probe: bool) -> io::Result<()> {
    set_int(
        fd,
        TCP,
        libc::TCP_REPAIR,
        if probe { 0 } else { OFF_SILENTLY },
    )
}

/// Chooses the queue that [`seq`] and the sending of data mean.
///
/// # Errors
/// As setsockopt(2).
pub fn queue(fd: BorrowedFd<'_>, which: Queue) -> io::Result<()> {
    set_int(fd, TCP, libc::TCP_REPAIR_QUEUE, which as i32)
}

/// Sets the sequence number at which a queue begins; the socket is not connected yet.
///
/// # Errors
/// EPERM when it is.
pub fn seq(fd: BorrowedFd<'_>, which: Queue, value: u32) -> io::Result<()> {
    queue(fd, which)?;
    set(fd, TCP, libc::TCP_QUEUE_SEQ, &value)
}

/// Sets what was agreed; the socket is connected and has sent nothing.
///
/// # Errors
/// As setsockopt(2).
pub fn agreed(fd: BorrowedFd<'_>, a: &Agreed) -> io::Result<()> {
    let one = |code, value| {
        set(
            fd,
            TCP,
            libc::TCP_REPAIR_OPTIONS,
            &RepairOpt { code, value },
        )
    };
    one(OPT_MSS, a.mss)?;
    if let Some((peer, own)) = a.scales {
        one(OPT_SCALE, (peer & 0xffff) | own << 16)?;
    }
    if a.sack {
        one(OPT_SACK, 0)?;
    }
    // The kernel goes on with the 536 bytes that it assumed when it connected, until something has it look at the size of
    // its segments anew: a change of the options of IP, even to none.
    let _other_family = set(fd, libc::IPPROTO_IP, libc::IP_OPTIONS, &[0u8; 0]);
    let _other_family = set(fd, libc::IPPROTO_IPV6, libc::IPV6_DSTOPTS, &[0u8; 0]);
    if let Some(clock) = a.timestamp {
        one(OPT_TIMESTAMPS, 0)?;
        // Since Linux 6.7 the lowest bit says that the clock counts microseconds. Ours counts milliseconds, and may
        // jump forward by one but never back.
        let clock = clock.wrapping_add(2) & !1;
        set(fd, TCP, libc::TCP_TIMESTAMP, &clock)?;
    }
    Ok(())
}

/// Sets both windows; the queues are filled.
///
/// # Errors
/// EINVAL for windows that contradict themselves.
pub fn window(fd: BorrowedFd<'_>, w: &Window) -> io::Result<()> {
    set(fd, TCP, libc::TCP_REPAIR_WINDOW, w)
}

/// The sequence number at the end of a queue of a socket in repair mode: the next one that the program's data gets, FIN
/// included, or RCV.NXT.
///
/// # Errors
/// As getsockopt(2).
pub fn end_of(fd: BorrowedFd<'_>, which: Queue) -> io::Result<u32> {
    queue(fd, which)?;
    Ok(get_int(fd, TCP, libc::TCP_QUEUE_SEQ)?.cast_unsigned())
}

/// Both windows of a connection in repair mode.
///
/// # Errors
/// As getsockopt(2).
pub fn window_of(fd: BorrowedFd<'_>) -> io::Result<Window> {
    let mut b = [0u8; size_of::<Window>()];
    get(fd, TCP, libc::TCP_REPAIR_WINDOW, &mut b)?;
    let word = |i: usize| {
        let at = b.get(i * 4..i * 4 + 4).and_then(|w| w.try_into().ok());
        at.map_or(0, u32::from_ne_bytes)
    };
    Ok(Window {
        snd_wl1: word(0),
        snd_wnd: word(1),
        max_window: word(2),
        rcv_wnd: word(3),
        rcv_wup: word(4),
    })
}

/// What was agreed, of a connection in repair mode (outside it the MSS would be that of the path). `None` for the clock
/// of timestamps that counts microseconds, and ECN: neither can go on elsewhere.
///
/// # Errors
/// As getsockopt(2).
pub fn agreed_of(fd: BorrowedFd<'_>) -> io::Result<Option<Agreed>> {
    // `struct tcp_info`: the options in byte 5, the peer's shift count in the low half of byte 6 and ours in the high one.
    let mut info = [0u8; 8];
    get(fd, TCP, libc::TCP_INFO, &mut info)?;
    let has = |bit: u8| info[5] & bit != 0;
    let clock = get_int(fd, TCP, libc::TCP_TIMESTAMP)?.cast_unsigned();
    if has(INFO_ECN) || has(INFO_TIMESTAMPS) && clock & 1 != 0 {
        return Ok(None);
    }
    Ok(Some(Agreed {
        mss: get_int(fd, TCP, libc::TCP_MAXSEG)?.cast_unsigned(),
        scales: has(INFO_SCALE).then(|| (u32::from(info[6] & 15), u32::from(info[6] >> 4))),
        sack: has(INFO_SACK),
        timestamp: has(INFO_TIMESTAMPS).then_some(clock),
    }))
}

/// Bytes that were received in order so far (`tcpi_bytes_received`).
///
/// # Errors
/// As getsockopt(2).
pub fn received(fd: BorrowedFd<'_>) -> io::Result<u64> {
    let mut info = [0u8; INFO_RECEIVED + 8];
    get(fd, TCP, libc::TCP_INFO, &mut info)?;
    let at = info.get(INFO_RECEIVED..).and_then(|b| b.try_into().ok());
    Ok(at.map_or(0, u64::from_ne_bytes))
}

/// Sends an ACK that is due, if nothing waits to be read.
///
/// # Errors
/// As setsockopt(2).
pub fn acknowledge(fd: BorrowedFd<'_>) -> io::Result<()> {
    set_int(fd, TCP, libc::TCP_QUICKACK, 1)
}

/// Bytes in the queues of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Queued {
    /// Received and not read.
    pub unread: u32,
    /// Not acknowledged, a FIN included.
    pub unacked: u32,
    /// Of those, never sent.
    pub unsent: u32,
}

/// `SIOCINQ`, `SIOCOUTQ`, `SIOCOUTQNSD`.
///
/// # Errors
/// As ioctl(2).
pub fn queued(fd: BorrowedFd<'_>) -> io::Result<Queued> {
    let ask = |request: libc::Ioctl| {
        let mut n: i32 = 0;
        // SAFETY: the kernel writes an int.
        match unsafe { libc::ioctl(fd.as_raw_fd(), request, &raw mut n) } {
            0 => Ok(n.max(0).cast_unsigned()),
            _ => Err(io::Error::last_os_error()),
        }
    };
    Ok(Queued {
        unread: ask(libc::FIONREAD)?,
        unacked: ask(libc::TIOCOUTQ)?,
        unsent: ask(SIOCOUTQNSD)?,
    })
}

/// True when an upper-layer protocol (`TCP_ULP`, kernel TLS) sits on the connection.
pub fn has_ulp(fd: BorrowedFd<'_>) -> bool {
    let mut name = [0u8; 16];
    get(fd, TCP, libc::TCP_ULP, &mut name).is_ok() && name[0] != 0
}

/// Sizes of a socket's buffers, and which were set by hand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Buffers {
    recv: i32,
    send: i32,
    lock: i32,
}

/// The buffers as they are.
///
/// # Errors
/// As getsockopt(2).
pub fn buffers(fd: BorrowedFd<'_>) -> io::Result<Buffers> {
    let sol = libc::SOL_SOCKET;
    Ok(Buffers {
        recv: get_int(fd, sol, libc::SO_RCVBUF)?,
        send: get_int(fd, sol, libc::SO_SNDBUF)?,
        // Linux before 5.14 does not say; enlarged buffers then keep their sizes.
        lock: get_int(fd, sol, SO_BUF_LOCK).unwrap_or(0),
    })
}

/// Enlarges them to at least these sizes in bytes, whatever the sysctls say.
///
/// # Errors
/// As setsockopt(2).
pub fn enlarge(fd: BorrowedFd<'_>, now: &Buffers, recv: usize, send: usize) -> io::Result<()> {
    for (option, size, now) in [
        (libc::SO_RCVBUFFORCE, recv, now.recv),
        (libc::SO_SNDBUFFORCE, send, now.send),
    ] {
        // The kernel doubles what is set, for its own overhead.
        let half = i32::try_from(size)
            .unwrap_or(i32::MAX / 4)
            .min(i32::MAX / 4);
        if half.saturating_mul(2) > now {
            set_int(fd, libc::SOL_SOCKET, option, half)?;
        }
    }
    Ok(())
}

/// Gives those that were set by hand their sizes back, and lets the others tune themselves.
///
/// # Errors
/// As setsockopt(2).
pub fn restore(fd: BorrowedFd<'_>, before: &Buffers) -> io::Result<()> {
    let sol = libc::SOL_SOCKET;
    if before.lock & RCVBUF_LOCK != 0 {
        set_int(fd, sol, libc::SO_RCVBUFFORCE, before.recv / 2)?;
    }
    if before.lock & SNDBUF_LOCK != 0 {
        set_int(fd, sol, libc::SO_SNDBUFFORCE, before.send / 2)?;
    }
    set_int(fd, sol, SO_BUF_LOCK, before.lock)
}

/// The state of a TCP socket, as in `TCP_INFO`; 7 is CLOSE.
///
/// # Errors
/// ENOTSOCK, or ENOPROTOOPT for another protocol.
pub fn state(fd: BorrowedFd<'_>) -> io::Result<u8> {
    let mut b = [0u8; 8];
    get(fd, TCP, libc::TCP_INFO, &mut b)?;
    Ok(b[0])
}

/// Dissolves a connection in repair mode without a packet.
///
/// # Errors
/// As connect(2).
pub fn disconnect(fd: BorrowedFd<'_>) -> io::Result<()> {
    let nobody = libc::sockaddr {
        sa_family: libc::AF_UNSPEC as libc::sa_family_t,
        sa_data: [0; 14],
    };
    let len = size_of::<libc::sockaddr>() as libc::socklen_t;
    // SAFETY: the kernel reads `len` bytes of the struct.
    let rc = unsafe { libc::connect(fd.as_raw_fd(), &raw const nobody, len) };
    // The aborted connection left an error behind.
    let _: io::Result<i32> = get_int(fd, libc::SOL_SOCKET, libc::SO_ERROR);
    if rc == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

fn get_int(fd: BorrowedFd<'_>, level: i32, name: i32) -> io::Result<i32> {
    let mut b = [0u8; 4];
    get(fd, level, name, &mut b)?;
    Ok(i32::from_ne_bytes(b))
}

fn get(fd: BorrowedFd<'_>, level: i32, name: i32, into: &mut [u8]) -> io::Result<()> {
    let mut len = into.len() as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes to the slice.
    let rc = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            level,
            name,
            into.as_mut_ptr().cast(),
            &raw mut len,
        )
    };
    if rc == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
