//! What a program asks of a UDP socket.

use super::rx::{cost, first_unread};
use crate::error::Error;
use crate::ip::tx::{NoWay, way, way_to};
use crate::sock::{Kind, SHUT_RD, SHUT_WR, Sock, SockId, SockRef, flag, recvq};
use crate::stack::Stack;
use crate::stack::buf::{BUF_SIZE, BufId};
use crate::stack::locked::Locked;
use crate::stack::wake::ev;
use crate::tcp::rx::count;
use crate::time::Instant;
use core::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use flyover_shm::ShmBytes;
use flyover_vnic::{TxOffload, TxResult};
use flyover_wire::emit::HeaderBuf;
use flyover_wire::{Endpoint, Ip, UdpSpec};

/// A datagram that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UdpMsg {
    /// Bytes copied.
    pub n: usize,
    /// Bytes that the datagram had.
    pub full_len: usize,
    /// Sender.
    pub from: Endpoint,
    /// Address it was sent to.
    pub to: Ip,
    /// Interface it came by.
    pub ifindex: u32,
    /// TTL or hop limit.
    pub ttl: u8,
    /// TOS or traffic class.
    pub tos: u8,
    /// Arrival.
    pub at: Instant,
    /// Call [`Stack::lock_or_defer`] with [`crate::stack::deferred::work::WINDOW`]: a buffer can be freed.
    pub want_update: bool,
}

/// What a program asks for one datagram besides its destination (control messages of `sendmsg`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UdpVia {
    /// Source address.
    pub src: Option<Ip>,
    /// TTL or hop limit.
    pub ttl: Option<u8>,
    /// TOS or traffic class.
    pub tos: Option<u8>,
}

impl Locked<'_, '_, '_> {
    /// Receives on a local address (or a wildcard; `dual`: IPv4 as well).
    ///
    /// # Errors
    /// [`Error::Invalid`] when it is bound already.
    pub fn udp_bind(&mut self, id: SockId, local: Endpoint, dual: bool) -> Result<(), Error> {
        let s = self.st.sock(id);
        if s.kind() != Kind::Udp || s.has(flag::HASHED) {
            return Err(Error::Invalid);
        }
        s.set_local(local);
        s.put_flag(flag::DUAL, dual);
        s.rcvbuf.set(self.st.opts.udp_rmem);
        s.sndbuf.set(self.st.opts.udp_wmem);
        self.st.hash_port(id);
        Ok(())
    }

    /// Connects to one peer, or, with None, dissolves the association. `local` is the address that the kernel socket
    /// has now.
    ///
    /// # Errors
    /// [`Error::Invalid`] when it is not a bound UDP socket.
    pub fn udp_connect(
        &mut self,
        id: SockId,
        local: Endpoint,
        remote: Option<Endpoint>,
    ) -> Result<(), Error> {
        let st = self.st;
        let s = st.net(id);
        if s.kind() != Kind::Udp {
            return Err(Error::Invalid);
        }
        st.unhash(id);
        s.set_local(local);
        s.set_remote(remote.unwrap_or(Endpoint {
            port: 0,
            ip: local.ip.unspecified_same_family(),
        }));
        s.net.rt_valid.set(0);
        st.hash_port(id);
        Ok(())
    }

    /// Sends one datagram.
    ///
    /// # Errors
    /// [`Error::NotSupported`]: the kernel socket must send it (no V-NIC on the way, neighbour unresolved, or larger
    /// than the MTU). [`Error::Busy`]: ask again soon. [`Error::WouldBlock`]: the V-NIC is full. [`Error::DestinationRequired`],
    /// [`Error::BrokenPipe`], [`Error::MessageSize`], or the pending error.
    pub fn udp_send(
        &mut self,
        id: SockId,
        dst: Option<Endpoint>,
        via: UdpVia,
        data: &[&[u8]],
    ) -> Result<usize, Error> {
        let src = via.src;
        let st = self.st;
        let s = st.net(id);
        let e = s.err.swap(0, AcqRel);
        if e != 0 {
            return Err(Error::Errno(e.cast_signed()));
        }
        let remote = match dst {
            Some(d) => d,
            None if s.rport.get() != 0 => s.remote(),
            None => return Err(Error::DestinationRequired),
        };
        if s.shut.load(Relaxed) & SHUT_WR != 0 {
            return Err(Error::BrokenPipe);
        }
        let len: usize = data.iter().map(|d| d.len()).sum();
        if len > 65_507 {
            return Err(Error::MessageSize);
        }
        let bound = s.local().ip;
        let from = src.or_else(|| (!bound.is_unspecified()).then_some(bound));
        let (way, source) = if s.rport.get() != 0 && remote == s.remote() && src.is_none() {
            match way(self, s) {
                Ok(w) => (w, bound),
                Err(NoWay::Busy) => return Err(Error::Busy),
                Err(NoWay::Wait | NoWay::Unreachable) => return Err(Error::NotSupported),
            }
        } else {
            match way_to(self, remote.ip, from) {
                Ok(w) => w,
                Err(NoWay::Busy) => return Err(Error::Busy),
                Err(NoWay::Wait | NoWay::Unreachable) => return Err(Error::NotSupported),
            }
        };
        let source = from.unwrap_or(source);
        let overhead = if remote.ip.is_v4() { 28 } else { 48 };
        if source.is_unspecified()
            || len as u32 + overhead > way.mtu
            || source.is_v4() != remote.ip.is_v4()
        {
            return Err(Error::NotSupported);
        }
        let spec = UdpSpec {
            smac: way.smac,
            dmac: way.dmac,
            vlan: 0,
            src: Endpoint {
                ip: source,
                port: s.local().port,
            },
            dst: remote,
            ttl: via.ttl.unwrap_or_else(|| s.ttl_to(remote.ip)),
            tos: via.tos.unwrap_or_else(|| s.tos_to(remote.ip)),
            ip_id: 0,
            payload_len: len as u32,
        };
        let sent = self.send_datagram(&s, &spec, way.nic, data, len);
        if sent.is_ok() {
            self.udp_left(id);
        }
        sent
    }

    /// A datagram has left, here or through the kernel socket. As `sock_wfree`: that is room anew, an edge for those who
    /// asked for one.
    pub fn udp_left(&mut self, id: SockId) {
        self.raise(id, ev::SPACE);
    }

    fn send_datagram(
        &mut self,
        s: &Sock,
        spec: &UdpSpec,
        nic: usize,
        data: &[&[u8]],
        len: usize,
    ) -> Result<usize, Error> {
        let st = self.st;
        let mut hdr = HeaderBuf::new();
        let at = spec.emit(&mut hdr).ok_or(Error::Invalid)?;
        let off = TxOffload {
            csum_start: at.l4_off,
            csum_offset: at.csum_off.wrapping_sub(at.l4_off),
            gso_size: 0,
            l4_tcp: false,
            v6: !spec.dst.ip.is_v4(),
            hdr_len: hdr.len() as u16,
        };
        let chain = copy_in(st, data, len).ok_or(Error::WouldBlock)?;
        let mut windows = [ShmBytes::EMPTY; 17];
        let mut n = 0;
        let mut cur = Some(chain);
        while let Some(id) = cur {
            let b = st.buf(id);
            if let Some(w) = windows.get_mut(n) {
                *w = st.buf_bytes(id).sub(0, b.len.get() as usize);
                n += 1;
            } else {
                break;
            }
            cur = b.more.get().opt();
        }
        let pay = if len == 0 {
            &[]
        } else {
            windows.get(..n).unwrap_or(&[])
        };
        let r = match self.env.nics.nic(nic) {
            Some(nic) => nic.tx(hdr.as_slice(), pay, &off),
            None => TxResult::Dropped,
        };
        self.dirty = true;
        st.free_chain(chain.into());
        match r {
            TxResult::Sent => {
                count!(self, udp_out);
                count!(self, tx_frames);
                s.segs_out
                    .store(s.segs_out.load(Relaxed).wrapping_add(1), Relaxed);
                s.bytes_out
                    .store(s.bytes_out.load(Relaxed).wrapping_add(len as u64), Relaxed);
                Ok(len)
            }
            TxResult::Full => {
                count!(self, tx_full);
                Err(Error::WouldBlock)
            }
            TxResult::Dropped => {
                count!(self, tx_dropped);
                // A datagram may be lost; the kernel says so only for a full queue with IP_RECVERR.
                Ok(len)
            }
        }
    }
}

/// Copies a datagram into a chain of buffers.
fn copy_in(st: Stack<'_>, data: &[&[u8]], len: usize) -> Option<BufId> {
    let first = st.alloc_buf()?;
    let mut cur = first;
    let mut used = 0usize;
    let mut left = len;
    for part in data {
        let mut rest: &[u8] = part;
        while !rest.is_empty() && left > 0 {
            if used == BUF_SIZE {
                let Some(next) = st.alloc_buf() else {
                    st.free_chain(first.into());
                    return None;
                };
                st.buf(cur).more.set(next.into());
                cur = next;
                used = 0;
            }
            let n = rest.len().min(BUF_SIZE - used).min(left);
            let (now, later) = rest.split_at(n);
            let _: usize = st.buf_bytes(cur).sub(used, n).copy_in(now);
            used += n;
            st.buf(cur).len.set(used as u32);
            left -= n;
            rest = later;
        }
    }
    Some(first)
}

impl Stack<'_> {
    /// The kernel socket sent a datagram of an accelerated socket.
    pub fn count_kernel_datagram(self) {
        let _: u64 = self.state.stats.udp_out_kernel.fetch_add(1, Relaxed);
    }

    /// A datagram waited for the control plane.
    pub fn count_busy_datagram(self) {
        let _: u64 = self.state.stats.udp_out_busy.fetch_add(1, Relaxed);
    }

    /// Reads one datagram into `bufs`; what does not fit is lost unless `peek`. `me` is the caller's owner slot.
    ///
    /// # Errors
    /// [`Error::WouldBlock`] when nothing is queued or another thread reads right now, or the pending error;
    /// [`Error::Invalid`]: not a UDP endpoint, whose queue has another form.
    pub fn udp_recv(
        self,
        sock: SockRef,
        bufs: &mut [&mut [u8]],
        peek: bool,
        me: u16,
    ) -> Result<UdpMsg, Error> {
        let s = self.get(sock).ok_or(Error::Stale)?;
        if s.kind() != Kind::Udp {
            return Err(Error::Invalid);
        }
        let e = s.err.swap(0, AcqRel);
        if e != 0 {
            return Err(Error::Errno(e.cast_signed()));
        }
        if s.rq_available() == 0 {
            return Err(if s.shut.load(Acquire) & SHUT_RD != 0 {
                // The caller turns this into "0 bytes".
                Error::BrokenPipe
            } else {
                Error::WouldBlock
            });
        }
        if !recvq::lock(s, me) {
            return Err(Error::WouldBlock);
        }
        if self.get(sock).is_none() {
            recvq::unlock(s);
            return Err(Error::Stale);
        }
        let r = self.read_datagram(s, bufs, peek);
        recvq::unlock(s);
        r
    }

    fn read_datagram(self, s: &Sock, bufs: &mut [&mut [u8]], peek: bool) -> Result<UdpMsg, Error> {
        if s.rq_available() == 0 {
            return Err(Error::WouldBlock);
        }
        let id = first_unread(self, s).ok_or(Error::Corrupt)?;
        let b = self.buf(id);
        let total = b.total.get();
        let mut part = Some(id);
        let mut skip = 0usize;
        let mut n = 0usize;
        let mut guard = 64;
        'out: for dst in bufs.iter_mut() {
            let mut at = 0;
            while at < dst.len() {
                let Some(p) = part else { break 'out };
                let have = self.buf(p).len.get() as usize;
                if skip >= have {
                    part = self.buf(p).more.get().opt();
                    skip = 0;
                    guard -= 1;
                    if guard == 0 {
                        return Err(Error::Corrupt);
                    }
                    continue;
                }
                let Some(room) = dst.get_mut(at..) else { break };
                let c = self.buf_bytes(p).sub(skip, have - skip).copy_out(room);
                if c == 0 {
                    break 'out;
                }
                at += c;
                n += c;
                skip += c;
            }
        }
        let msg = UdpMsg {
            n,
            full_len: total as usize,
            from: Endpoint {
                ip: Ip::from_halves(b.from_hi.get(), b.from_lo.get()),
                port: b.port.get() as u16,
            },
            to: Ip::from_halves(b.to_hi.get(), b.to_lo.get()),
            ifindex: b.ifindex.get(),
            ttl: b.ttl_tos.get() as u8,
            tos: (b.ttl_tos.get() >> 8) as u8,
            at: Instant(b.at.get()),
            want_update: !peek && s.rq_available() == 1,
        };
        if !peek {
            self.pop_datagram(s, id, total);
        }
        Ok(msg)
    }

    /// The datagram was read: its predecessor goes, it becomes the kept buffer itself.
    fn pop_datagram(self, s: &Sock, id: BufId, total: u32) {
        if s.rq_rd.get() != 0
            && let Some(old) = s.rq_head.get().opt()
        {
            self.free_one(old);
        }
        s.rq_head.set(id.into());
        s.rq_rd.set(1);
        let _: u32 = s
            .rq_bytes
            .fetch_sub(cost(total).min(s.rq_bytes.load(Relaxed)), Relaxed);
        s.rq_out
            .store(s.rq_out.load(Relaxed).wrapping_add(1), Release);
    }

    /// Frees one datagram with its chain.
    fn free_one(self, id: BufId) {
        self.buf(id).next.set(flyover_shm::OptIdx::NONE);
        self.free_chain(id.into());
    }

    /// `SIOCINQ` of UDP: bytes of the next datagram; 0 when there is none.
    pub fn udp_next_len(self, id: SockId) -> u32 {
        let s = self.sock(id);
        if s.rq_available() == 0 {
            return 0;
        }
        first_unread(self, s).map_or(0, |b| self.buf(b).total.get())
    }
}
