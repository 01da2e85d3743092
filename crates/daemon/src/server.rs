//! The daemon's main thread: listens, starts a session per client, ends on a signal.

use std::io::Write as _;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};
use flyover_config::{DEFAULT_SOCKET, Text};
use flyover_proto::{Place, Unfit};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{SocketFlags, accept_with};
use rustix::process::{Resource, getrlimit, setrlimit};

use crate::args::Args;
use crate::daemon::Daemon;
use crate::listener::Listener;
use crate::peer::Peer;
use crate::power::Power;
use crate::session::Session;
use crate::stacks::{Life, find_all};

/// Stack of a session's thread, bytes.
const THREAD_STACK: usize = 512 << 10;
/// How long sessions may take to end.
const FAREWELL: Duration = Duration::from_secs(2);
/// How often the main thread looks up without a reason.
const TICK: Duration = Duration::from_secs(1);

/// Runs the daemon until SIGTERM or SIGINT.
///
/// # Errors
/// What kept it from starting.
pub fn run(args: &Args) -> anyhow::Result<()> {
    raise_file_limit();
    let signals = signals().context("taking signals")?;
    let power = Power::of_this_process().context("looking at what this process may do")?;
    let mut opts = args.opts;
    if power.is_user() && opts.socket.as_str() == DEFAULT_SOCKET {
        opts.socket = own_socket()?;
    }
    let mut listener = Listener::open(&opts, power.is_user())?;
    let daemon = Daemon::new(opts, power, args.interfaces.clone())?;
    find_all(&daemon);
    tell_ready(args);
    tracing::info!(
        socket = opts.socket.as_str(),
        pid = std::process::id(),
        "listening"
    );
    serve(&daemon, &mut listener, &signals);
    drop(listener);
    end(&daemon);
    Ok(())
}

/// Where an ordinary user's daemon listens unless told otherwise.
fn own_socket() -> anyhow::Result<Text<107>> {
    let all = |unfit: Vec<Unfit>| {
        let each: Vec<_> = unfit.iter().map(ToString::to_string).collect();
        anyhow!("no directory for the socket: {}", each.join("; "))
    };
    let place = Place::make_first().map_err(all)?;
    let path = place.socket().context("looking at /proc/self/ns/net")?;
    let name = path.to_str().and_then(Text::new);
    name.with_context(|| format!("{} is too long for a socket", path.display()))
}

fn serve(daemon: &Arc<Daemon>, listener: &mut Listener, signals: &SignalFd) {
    let mut busy_at = Instant::now();
    let tick = Timespec {
        tv_sec: TICK.as_secs() as i64,
        tv_nsec: 0,
    };
    loop {
        let mut fds = [
            PollFd::from_borrowed_fd(signals.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(listener.sock.as_fd(), PollFlags::IN),
        ];
        let _: Result<usize, Errno> = poll(&mut fds, Some(&tick));
        if fds[0].revents().contains(PollFlags::IN)
            && let Ok(Some(signal)) = signals.read_signal()
        {
            tracing::info!(signal = signal.ssi_signo, "ending");
            return;
        }
        if fds[1].revents().contains(PollFlags::IN) {
            accept(daemon, listener.sock.as_fd());
        }
        if daemon.session_count() > 0 || !daemon.stacks.list().is_empty() {
            busy_at = Instant::now();
        }
        let idle_exit = daemon.opts.idle_exit_s;
        if idle_exit > 0 && busy_at.elapsed() >= Duration::from_secs(idle_exit.into()) {
            if daemon.power.has_heirs(daemon.opts.socket.as_str()) {
                busy_at = Instant::now();
                continue;
            }
            // Whoever comes now finds nobody, and starts another daemon; whoever came is served.
            let over = listener.retire(|sock| {
                accept(daemon, sock);
                daemon.session_count() == 0
            });
            if over {
                tracing::info!("ending: no client for {idle_exit} s");
                return;
            }
        }
    }
}

/// Takes the clients that wait, a bounded number of them.
fn accept(daemon: &Arc<Daemon>, listener: BorrowedFd<'_>) {
    for _ in 0..64 {
        match accept_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
            Ok(sock) => start(daemon, sock),
            Err(Errno::AGAIN) => return,
            Err(Errno::INTR | Errno::CONNABORTED) => {}
            Err(e) => {
                // Out of descriptors or memory: pause, or this loop would only spin.
                tracing::error!("accepting a client: {e}");
                thread::sleep(Duration::from_millis(100));
                return;
            }
        }
    }
}

fn start(daemon: &Arc<Daemon>, sock: OwnedFd) {
    let peer = match Peer::of(sock.as_fd()) {
        Ok(peer) => peer,
        Err(e) => return tracing::debug!("a client that is gone: {e}"),
    };
    let Some(ticket) = daemon.admit(peer.uid) else {
        let _: u64 = daemon.denials.turned_away.fetch_add(1, Relaxed);
        return tracing::warn!(uid = peer.uid, pid = peer.pid, "too many connections");
    };
    let session = Session::new(daemon.clone(), sock, peer, ticket);
    let thread = thread::Builder::new()
        .name("session".into())
        .stack_size(THREAD_STACK);
    if let Err(e) = thread.spawn(move || session.run()) {
        tracing::error!("no thread for a client: {e}");
    }
}

/// Processes go on with their stacks, which their keepers look after; what no process uses ends with the daemon.
fn end(daemon: &Daemon) {
    daemon.stop();
    let start = Instant::now();
    while daemon.session_count() > 0 && start.elapsed() < FAREWELL {
        thread::sleep(Duration::from_millis(5));
    }
    for stack in daemon.stacks.list() {
        let Some(mut life) = stack.try_life() else {
            continue;
        };
        if matches!(&*life, Life::Live(live) if live.owners.is_empty()) {
            stack.end(daemon, &mut life);
        }
    }
}

/// Every stack, V-NIC and client costs descriptors.
fn raise_file_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(e) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!("raising the limit of open files: {e}");
    }
}

/// Blocks the signals in every thread that is made from here on, and reads them from a descriptor.
fn signals() -> anyhow::Result<SignalFd> {
    let mut set = SigSet::empty();
    [Signal::SIGTERM, Signal::SIGINT]
        .into_iter()
        .for_each(|signal| set.add(signal));
    set.thread_block()?;
    Ok(SignalFd::with_flags(
        &set,
        SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK,
    )?)
}

/// Tells whoever started the daemon that clients can connect: a line on a descriptor, and systemd's protocol
/// (sd_notify(3)).
fn tell_ready(args: &Args) {
    if let Some(fd) = args.ready_fd {
        let told = std::fs::OpenOptions::new()
            .write(true)
            .open(format!("/proc/self/fd/{fd}"))
            .and_then(|mut pipe| pipe.write_all(b"ready\n"));
        if let Err(e) = told {
            tracing::warn!(fd, "telling that the daemon is ready: {e}");
        }
    }
    if let Ok(path) = std::env::var("NOTIFY_SOCKET") {
        let told = notify(&path);
        if let Err(e) = told {
            tracing::warn!(path, "telling systemd that the daemon is ready: {e}");
        }
    }
}

fn notify(path: &str) -> std::io::Result<()> {
    use std::os::linux::net::SocketAddrExt as _;
    let sock = UnixDatagram::unbound()?;
    let addr = match path.strip_prefix('@') {
        Some(name) => std::os::unix::net::SocketAddr::from_abstract_name(name)?,
        None => std::os::unix::net::SocketAddr::from_pathname(path)?,
    };
    sock.send_to_addr(b"READY=1", &addr).map(drop)
}
