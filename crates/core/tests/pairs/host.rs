//! A stack with the two ends of one connection, and the kernel's side of it. Its memory is that of a memfd: what was never
//! touched is a hole.

use std::collections::VecDeque;

use flyover_config::StackOpts;
use flyover_core::local::{Enter, Facts, Seen};
use flyover_core::sock::{SockRef, flag};
use flyover_core::stack::deferred::work;
use flyover_core::stack::layout::Layout;
use flyover_core::{
    Effects, Env, Instant, Locked, NicSet, RecvFlags, SendFlags, SockId, Stack, layout_len,
};
use flyover_cplane::writer::Writer;
use flyover_cplane::{Dims, Reader};
use flyover_shm::{HeapMap, Map, sealed_memfd};
use flyover_vnic::Vnic;
use flyover_wire::Endpoint;
use rustix::fd::OwnedFd;
use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

struct NoNics;

impl NicSet for NoNics {
    fn count(&self) -> usize {
        0
    }
    fn nic(&mut self, _: usize) -> Option<&mut dyn Vnic> {
        None
    }
}

pub const ME: u16 = 1;

/// What the kernel has of one direction.
#[derive(Default)]
pub struct Pipe {
    queue: VecDeque<u8>,
    sent: u64,
    read: u64,
}

pub struct Host<'m> {
    pub st: Stack<'m>,
    cp: Reader<'m>,
    pub ends: [SockRef; 2],
    /// To each end.
    kernel: [Pipe; 2],
}

pub fn end(s: &str) -> Endpoint {
    s.parse().expect("an address")
}

fn opts() -> StackOpts {
    StackOpts {
        max_sockets: 16,
        buffers: 512,
        ..StackOpts::default()
    }
}

/// An empty stack; the memory that it is in.
pub fn with_stack(f: impl FnOnce(&mut Host<'_>)) -> OwnedFd {
    let opts = opts();
    let memory = sealed_memfd("stack", layout_len(&opts)).expect("memory");
    let map = Map::rw(&memory, layout_len(&opts) as usize).expect("a mapping");
    let plane = HeapMap::new(Dims::default().len().expect("size"));
    let writer = Writer::new(plane.region(), &Dims::default(), 1).expect("dims");
    let st = Stack::new(map.region(), &opts).expect("a stack");
    st.init(Instant(0), [1, 2, 3, 4]);
    f(&mut Host {
        st,
        cp: writer.reader(),
        ends: [SockRef {
            id: flyover_shm::Idx::new(0),
            generation: 0,
        }; 2],
        kernel: [Pipe::default(), Pipe::default()],
    });
    memory
}

/// The two marks of a connection, and nothing else.
pub fn with_host(f: impl FnOnce(&mut Host<'_>)) {
    let memory = with_stack(|host| {
        let (a, b) = (end("127.0.0.1:4000"), end("127.0.0.1:80"));
        host.ends = host.locked(|l| {
            [
                l.local_mark(false, 11, a, b, 5).expect("a mark"),
                l.local_mark(false, 12, b, a, 5).expect("a mark"),
            ]
        });
        f(host);
    });
    let layout = Layout::new(&opts());
    let used = match seek(&memory, SeekFrom::Data(layout.nets as u64)) {
        // Nothing up to the end.
        Err(Errno::NXIO) => u64::MAX,
        found => found.expect("a memfd tells its holes"),
    };
    assert!(
        used >= layout.flights as u64,
        "memory that neither mark nor pair needs was looked at"
    );
}

impl<'m> Host<'m> {
    pub fn locked<R>(&mut self, f: impl FnOnce(&mut Locked<'_, '_, 'm>) -> R) -> R {
        let mut fx = Effects::new();
        let mut env = Env {
            now: Instant(1),
            nics: &mut NoNics,
            cp: self.cp,
            fx: &mut fx,
            me: ME,
            rng: 1,
        };
        let mut l = self.st.try_lock(&mut env).expect("a free lock");
        f(&mut l)
    }

    /// Somebody watches the end that was sent to.
    pub fn tell(&mut self, to: SockId) {
        self.do_work(to, work::DATA);
    }

    /// The same for several, one after the other, while somebody holds the lock: he does it.
    pub fn tell_the_holder(&mut self, all: &[SockId]) {
        let mut sender = Host {
            st: self.st,
            cp: self.cp,
            ends: self.ends,
            kernel: [Pipe::default(), Pipe::default()],
        };
        self.locked(|_| all.iter().for_each(|to| sender.tell(*to)));
    }

    /// The lock of one who died was taken over.
    pub fn recover(&mut self, dead: u16) {
        let mut fx = Effects::new();
        let mut env = Env {
            now: Instant(1),
            nics: &mut NoNics,
            cp: self.cp,
            fx: &mut fx,
            me: ME,
            rng: 1,
        };
        let mut l = self.st.assume_locked(&mut env).expect("the lock");
        assert!(l.recover(dead));
    }

    pub fn do_work(&mut self, to: SockId, what: u32) {
        let mut fx = Effects::new();
        let mut env = Env {
            now: Instant(1),
            nics: &mut NoNics,
            cp: self.cp,
            fx: &mut fx,
            me: ME,
            rng: 1,
        };
        drop(self.st.lock_or_defer(&mut env, to, what));
    }

    pub fn is_mark(&self, end: usize) -> bool {
        self.st.sock(self.ends[end].id).has(flag::HANDED_OVER)
    }

    pub fn facts(&self, end: usize) -> Facts {
        Facts {
            sent: self.kernel[1 - end].sent,
            read: self.kernel[end].read,
            waiting: self.kernel[end].queue.len() as u32,
        }
    }

    pub fn hold(&mut self) -> Option<(Seen, Seen)> {
        let id = self.ends[0].id;
        self.locked(|l| l.local_ends(id))
    }

    pub fn pair(&mut self) -> bool {
        let Some((a, b)) = self.hold() else {
            return false;
        };
        let facts = (self.facts(0), self.facts(1));
        self.locked(|l| l.local_pair((a, facts.0), (b, facts.1)))
            .is_ok()
    }

    /// A send of the program's, wherever the connection is; how many bytes went.
    pub fn send(&mut self, end: usize, data: &[u8]) -> usize {
        let (from, other) = (self.ends[end], 1 - end);
        match self.st.kernel_enter(from.id) {
            Enter::Kernel => {
                self.kernel[other].queue.extend(data);
                self.kernel[other].sent += data.len() as u64;
                let _: u32 = self.st.kernel_leave(from.id);
                data.len()
            }
            Enter::Wait => panic!("nobody holds it"),
            Enter::Here => {
                if let Some(sent) = self.st.local_send_fast(from, &[data], ME) {
                    if let Some(to) = sent.watched {
                        self.tell(to);
                    }
                    return sent.n;
                }
                let sent = self.locked(|l| l.tcp_send(from.id, &[data], SendFlags::default()));
                sent.unwrap_or(0)
            }
        }
    }

    /// The first look at a paired end.
    pub fn welcome(&mut self, end: usize) {
        let id = self.ends[end].id;
        let n = self.st.kernel_bytes(id) as usize;
        if n > 0 {
            assert!(self.st.local_welcome(id, ME));
            let held: Vec<u8> = self.take_kernels(end, n);
            assert!(self.locked(|l| l.local_bring_in(id, &held)));
            self.st.local_welcomed(id);
        }
    }

    pub fn take_kernels(&mut self, end: usize, n: usize) -> Vec<u8> {
        let pipe = &mut self.kernel[end];
        let n = n.min(pipe.queue.len());
        pipe.read += n as u64;
        pipe.queue.drain(..n).collect()
    }

    pub fn read(&mut self, end: usize, most: usize) -> Vec<u8> {
        let id = self.ends[end].id;
        if self.st.kernel_enter(id) == Enter::Kernel {
            let bytes = self.take_kernels(end, most);
            let _: u32 = self.st.kernel_leave(id);
            return bytes;
        }
        self.welcome(end);
        let mut into = vec![0; most];
        let got = self.st.tcp_recv(
            self.st.sock_ref(id),
            &mut [&mut into[..]],
            RecvFlags::default(),
            ME,
        );
        into.truncate(got.map_or(0, |r| r.n));
        into
    }

    /// Both ends go back to the kernel, or stay after all.
    pub fn part(&mut self, back: bool) -> bool {
        let id = self.ends[0].id;
        (0..2).for_each(|end| self.welcome(end));
        let Ok((own, Some(other))) = self.locked(|l| l.local_part(id)) else {
            return false;
        };
        assert_eq!((own.sock, other.sock), (self.ends[0], self.ends[1]));
        for (end, left) in [(0, own.unread), (1, other.unread)] {
            // Not all goes, if they stay.
            let n = if back { left } else { left / 2 } as usize;
            let mut bytes = vec![0; n];
            let at = self.ends[end].id;
            assert_eq!(self.st.local_copy(at, &mut bytes), n);
            self.st.local_moving(at);
            self.kernel[end].queue.extend(&bytes);
            self.kernel[end].sent += n as u64;
            self.locked(|l| l.local_moved(at, n as u32));
        }
        self.locked(|l| match back {
            true => l.local_parted(id, 5, 5),
            false => l.local_rejoin(id),
        });
        true
    }
}
