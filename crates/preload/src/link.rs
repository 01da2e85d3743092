//! The ways out of the process: `flyoverd`, the keeper, and the mappings that come with attaching.

use std::os::fd::{AsRawFd as _, BorrowedFd, IntoRawFd, OwnedFd};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

use flyover_config::{LogLevel, ProcessOpts, StackOpts, StackSelect, VnicChoice};
use flyover_core::{Handover, LAYOUT_HASH, SockRef, Stack};
use flyover_cplane::{Dims, Reader};
use flyover_proto::{
    Attach, Attached, AttachedFds, Client, ClientError, Connection, FilterSpec, KeeperLink, List,
    MAX_NARROW, NicDesc, RefusedCode, StackName, TcpImage, Text, VnicPref,
};
use flyover_shm::host::Map;
use flyover_sockets::attach::{
    Connector, Daemon, DaemonError, Flow, Keeper, NicMaker, Parts, TakenOver,
};
use flyover_sockets::life::adopt::Terms;
use flyover_vnic::{NicState, PacketGeometry, PacketNic, Vnic, XdpGeometry, XdpNic};
use flyover_wire::{Endpoint, Ip};

use crate::init::say;
use crate::rejoin::Way;

/// Attaches through the daemon's socket.
pub struct FlyoverDaemon {
    opts: ProcessOpts,
    stack: StackOpts,
}

/// The stack's memory, kept open for the children of `fork`; -1 while there is none.
pub static STACK_MEMORY: AtomicI32 = AtomicI32::new(-1);

/// Has the process attach to the stack whose memory this is.
pub fn use_memory(fd: i32) {
    STACK_MEMORY.store(fd, Ordering::Release);
}

/// What went wrong, in words for the log.
enum Failure {
    Client(ClientError),
    Text(&'static str),
    Io(&'static str, std::io::Error),
}

impl From<ClientError> for Failure {
    fn from(e: ClientError) -> Self {
        Self::Client(e)
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Client(e) => e.fmt(f),
            Self::Text(t) => f.write_str(t),
            Self::Io(what, e) => write!(f, "{what}: {e}"),
        }
    }
}

impl FlyoverDaemon {
    /// Will attach as the options say.
    pub fn new(opts: ProcessOpts, stack: StackOpts) -> Self {
        Self { opts, stack }
    }

    fn request(&self) -> Attach {
        let name = match self.opts.stack {
            StackSelect::Default => StackName::Default,
            StackSelect::Private => StackName::Private,
            StackSelect::Named(n) => StackName::Named(Text::new(n.as_str())),
        };
        Attach {
            stack: name,
            opts: List::new(self.stack.to_words()),
            interfaces: List::new(self.opts.interfaces.iter().map(Text::new)),
            vnic: match self.opts.vnic {
                VnicChoice::Auto => VnicPref::Auto,
                VnicChoice::Packet => VnicPref::Packet,
                VnicChoice::Xdp => VnicPref::Xdp,
            },
        }
    }

    fn try_attach(&self) -> Result<Parts, Failure> {
        let mut client = Client::connect(self.opts.socket.as_str().as_bytes(), LAYOUT_HASH)?;
        let memory = STACK_MEMORY.load(Ordering::Acquire);
        if memory >= 0 {
            // A child of fork: its parent's sockets are in its parent's stack, whatever user it is by now.
            let inherited = Attach {
                stack: StackName::Inherited,
                ..self.request()
            };
            match client.attach_inherited(inherited, borrowed(memory)) {
                Ok((attached, fds)) => return assemble(&self.opts, client, attached, fds),
                // The daemon was started anew, or the program entered another network namespace.
                Err(ClientError::Refused(..)) => {}
                Err(e) => return Err(e.into()),
            }
        }
        let (attached, fds) = client.attach(self.request())?;
        assemble(&self.opts, client, attached, fds)
    }
}

impl Connector for FlyoverDaemon {
    fn attach(&self) -> Result<Parts, DaemonError> {
        self.try_attach().map_err(|e| {
            let level = match &e {
                // No daemon is an ordinary state of affairs, and so is one that cannot do it without privilege.
                Failure::Client(
                    ClientError::Absent(_) | ClientError::Refused(RefusedCode::Unprivileged, _),
                ) => LogLevel::Info,
                _ => LogLevel::Error,
            };
            say(
                &self.opts,
                level,
                &[&e.to_string(), "; sockets stay with the kernel"],
            );
            match e {
                Failure::Client(ClientError::Refused(..)) => DaemonError::Refused,
                _ => DaemonError::Absent,
            }
        })
    }
}

fn assemble(
    process: &ProcessOpts,
    client: Client,
    attached: Attached,
    fds: AttachedFds,
) -> Result<Parts, Failure> {
    let opts = StackOpts::from_words(&attached.opts)
        .map_err(|_| Failure::Text("bad stack options from flyoverd"))?;
    let dims =
        Dims::from_words(&attached.dims).ok_or(Failure::Text("bad table sizes from flyoverd"))?;
    let map = Map::rw(&fds.stack, attached.stack_len as usize)
        .map_err(|e| Failure::Io("cannot map the stack", e.into()))?;
    let stack = Stack::new(map.leak(), &opts)
        .map_err(|_| Failure::Text("the stack is smaller than its options say"))?;
    if !stack.is_ready() {
        return Err(Failure::Text(
            "the stack is not initialised, or of another version",
        ));
    }
    let tables = Map::ro(&fds.cplane, attached.cplane_len as usize)
        .map_err(|e| Failure::Io("cannot map the tables", e.into()))?;
    let tables: &'static Map = Box::leak(Box::new(tables));
    let cplane = Reader::new(tables.region(), &dims)
        .map_err(|_| Failure::Text("the tables are smaller than they say"))?;
    let mut own_fds = vec![fds.keeper.as_fd().as_raw_fd()];
    own_fds.extend(client.as_fd().map(|f| f.as_raw_fd()));
    let memory = fds.stack.into_raw_fd();
    own_fds.push(memory);
    // Held until this process ends: without daemon and keeper it goes on by itself.
    own_fds.extend(fds.keepalive.map(IntoRawFd::into_raw_fd));
    STACK_MEMORY.store(memory, Ordering::Release);
    let mut nic_fds = Vec::new();
    let mut tx_fds = Vec::new();
    let mut nic_ifindex = Vec::new();
    let mut nics: Vec<Option<Box<dyn Vnic + Send>>> = Vec::new();
    for (desc, nic) in attached.nics.iter().zip(fds.nics) {
        let slot = usize::from(desc.slot);
        let state = stack
            .nic_state(u32::from(desc.slot))
            .ok_or(Failure::Text("a V-NIC beyond the table"))?;
        let raw = nic.sock.as_raw_fd();
        // Held as well: when daemon and keeper are gone, the next ones take it from here.
        let umem = nic.umem.map(IntoRawFd::into_raw_fd);
        own_fds.extend(umem);
        let made = make_nic(desc, nic.sock, umem.map(borrowed), state);
        let made = made.map_err(|e| Failure::Io("cannot use a V-NIC", e))?;
        if nics.len() <= slot {
            nics.resize_with(slot + 1, || None);
            nic_ifindex.resize(slot + 1, 0);
            tx_fds.resize(slot + 1, -1);
        }
        nics[slot] = Some(made);
        nic_ifindex[slot] = desc.ifindex;
        nic_fds.push(raw);
        tx_fds[slot] = raw;
    }
    let nic_count = nics.len();
    let waiting = Mutex::new(nics);
    let take: Box<NicMaker> = Box::new(move |i| {
        waiting
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .get_mut(i)
            .and_then(Option::take)
    });
    Ok(Parts {
        stack_id: attached.stack_id,
        owner: attached.owner,
        stack,
        cplane,
        daemon: Box::new(DaemonLink(Way::new(
            client,
            *process,
            attached.owner,
            (tables, dims),
            fds.keeper.as_fd().as_raw_fd(),
        ))),
        keeper: Box::new(Link(fds.keeper)),
        nic_count,
        nics: take,
        nic_ifindex,
        nic_fds,
        tx_fds,
        local_only: attached.local_only,
        shared: attached.shared,
        own_fds,
    })
}

fn make_nic(
    desc: &NicDesc,
    sock: OwnedFd,
    umem: Option<BorrowedFd<'_>>,
    state: &'static NicState,
) -> std::io::Result<Box<dyn Vnic + Send>> {
    let bad = || std::io::Error::from(std::io::ErrorKind::InvalidData);
    if u32::from(desc.kind) == flyover_vnic::VnicKind::Xdp as u32 {
        let geometry = XdpGeometry::from_words(&desc.geometry).ok_or_else(bad)?;
        let umem = umem.ok_or_else(bad)?;
        return Ok(Box::new(XdpNic::attach(sock, umem, geometry, state)?));
    }
    let geometry = PacketGeometry::from_words(&desc.geometry).ok_or_else(bad)?;
    Ok(Box::new(PacketNic::attach(sock, geometry, state)?))
}

struct DaemonLink(Way);

/// Says once why a connection could not be handed over.
fn complain(opts: &ProcessOpts, e: &ClientError) {
    static SAID: AtomicBool = AtomicBool::new(false);
    if !SAID.swap(true, Ordering::Relaxed) {
        let text = e.to_string();
        say(
            opts,
            LogLevel::Error,
            &["a connection stays on the stack: ", &text],
        );
    }
}

/// The application's descriptor for the length of one call.
fn borrowed<'a>(fd: i32) -> BorrowedFd<'a> {
    // SAFETY: the application holds `fd` open during the call that passes it; if another thread closes it meanwhile,
    // the number means something else or nothing, and the receiver checks what it got.
    unsafe { BorrowedFd::borrow_raw(fd) }
}

impl Daemon for DaemonLink {
    fn add_filter(&mut self, flow: Flow, proof: i32) -> Result<u32, DaemonError> {
        let spec = FilterSpec {
            proto: flow.proto,
            local: flow.local,
            remote: flow.remote,
            dual: flow.dual,
        };
        self.0
            .again(|client| client.add_filter(spec, borrowed(proof)))
            .map_err(|e| match e {
                ClientError::Refused(RefusedCode::Conflict, _) => DaemonError::Conflict,
                ClientError::Refused(..) => DaemonError::Refused,
                _ => DaemonError::Absent,
            })
    }

    fn del_filter(&mut self, id: u32) {
        self.0.del_filter(id);
    }

    fn lend(&mut self, ip: Ip, have: u32, lease: u64) -> Result<Vec<u16>, DaemonError> {
        let lent = self.0.again(|client| client.lend(ip, have, lease));
        lent.map_err(|e| match e {
            ClientError::Refused(..) => DaemonError::Refused,
            _ => DaemonError::Absent,
        })
    }

    fn handover(&mut self, h: &Handover, fd: i32, data: Option<i32>) -> Result<u32, DaemonError> {
        let image = TcpImage {
            local: h.local,
            remote: h.remote,
            ifindex: h.ifindex,
            snd_una: h.snd_una,
            unacked: h.unacked,
            queued: h.queued,
            rcv_nxt: h.rcv_nxt,
            unread: h.unread,
            snd_wnd: h.snd_wnd,
            snd_wl1: h.snd_wl1,
            max_wnd: h.max_wnd,
            rcv_wnd: h.rcv_wnd,
            mss: h.mss,
            peer_scale: h.scales.map(|(peer, _)| peer as u8),
            own_scale: h.scales.map(|(_, own)| own as u8),
            sack: h.sack,
            timestamp: h.timestamp,
            fin_in: h.fin_in,
            fin_out: h.fin_out,
            fin_acked: h.fin_acked,
        };
        self.0
            .client()
            .handover(image, borrowed(fd), data.map(borrowed))
            .map_err(|e| {
                complain(self.0.opts(), &e);
                match e {
                    ClientError::Refused(..) => DaemonError::Refused,
                    _ => DaemonError::Absent,
                }
            })
    }

    fn watch(
        &mut self,
        local: Endpoint,
        remote: Endpoint,
        sole: bool,
        fd: i32,
    ) -> Result<u32, DaemonError> {
        let flow = Connection { local, remote };
        let watched = self.0.client().watch(flow, sole, borrowed(fd));
        watched.map_err(|e| match e {
            ClientError::Refused(..) => DaemonError::Refused,
            _ => DaemonError::Absent,
        })
    }

    fn takeover(
        &mut self,
        local: Endpoint,
        remote: Endpoint,
        pass: u32,
        terms: Terms,
        fd: i32,
    ) -> Result<TakenOver, String> {
        let flow = Connection { local, remote };
        let (image, filter, data) = self
            .0
            .client()
            .takeover(flow, pass, (terms.seen, terms.sole), borrowed(fd))
            .map_err(|e| match e {
                ClientError::Refused(_, text) => text,
                e => e.to_string(),
            })?;
        Ok(TakenOver {
            image: Handover {
                local: image.local,
                remote: image.remote,
                ifindex: image.ifindex,
                snd_una: image.snd_una,
                unacked: image.unacked,
                queued: image.queued,
                rcv_nxt: image.rcv_nxt,
                unread: image.unread,
                snd_wnd: image.snd_wnd,
                snd_wl1: image.snd_wl1,
                max_wnd: image.max_wnd,
                rcv_wnd: image.rcv_wnd,
                mss: image.mss,
                scales: image
                    .peer_scale
                    .zip(image.own_scale)
                    .map(|(peer, own)| (peer.into(), own.into())),
                sack: image.sack,
                timestamp: image.timestamp,
                fin_in: image.fin_in,
                fin_out: image.fin_out,
                fin_acked: image.fin_acked,
            },
            filter,
            data: data.map(IntoRawFd::into_raw_fd),
        })
    }

    fn borrow_end(&mut self, inode: u32, fd: i32) -> Option<i32> {
        let lent = self
            .0
            .again(|client| client.borrow_end(inode, borrowed(fd)));
        lent.ok().map(IntoRawFd::into_raw_fd)
    }

    fn narrow(&mut self, id: u32, to: &[(Endpoint, Endpoint)]) {
        if to.len() > MAX_NARROW {
            // Too many for one message: the filter stays as wide as it is until they have ended.
            return;
        }
        let to = to.iter().map(|(local, remote)| Connection {
            local: *local,
            remote: *remote,
        });
        let _ = self.0.again(|client| client.narrow(id, to.clone()));
    }

    fn resolve(&mut self, ifindex: u32, ip: Ip) {
        self.0.client().resolve(ifindex, ip);
    }

    fn settle(&mut self) {
        // Any request that is answered: the daemon takes them in turn.
        let _ = self.0.again(Client::nics);
    }

    fn meet(&mut self) -> bool {
        self.0.meet()
    }
}

struct Link(KeeperLink);

impl Keeper for Link {
    fn reg_os(&self, sock: SockRef, listen: bool, fd: i32) {
        let _ = self
            .0
            .reg_os(sock.id.raw(), sock.generation, listen, borrowed(fd));
    }

    fn park(&self, sock: SockRef, fd: i32) {
        let _ = self.0.park(sock.id.raw(), sock.generation, borrowed(fd));
    }

    fn unpark(&self, sock: SockRef) {
        let _ = self.0.unpark(sock.id.raw(), sock.generation);
    }

    fn poke(&self) {
        self.0.poke();
    }
}
