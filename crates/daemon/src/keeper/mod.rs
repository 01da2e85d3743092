//! The keeper: one unprivileged process per stack that runs the same stack code when no application does.
//!
//! It answers the network and fires timers while applications compute, are stopped or have ended; closes endpoints
//! whose kernel sockets died; watches kernel sockets behind endpoints; takes the lock over from dead processes.
//!
//! - `mode.rs`: when to work and when to sleep (pure).
//! - `served.rs`: the stack's memory, V-NICs and lock.
//! - `duty.rs`: the loop: descriptors in, work out.
//! - `deaths.rs`: the end of kernel sockets.
//! - `sockets.rs`: kernel sockets watched or held.
//! - `privilege.rs`: giving up what it does not need.

mod deaths;
mod duty;
mod mode;
mod privilege;
mod served;
mod sockets;

use std::os::fd::AsFd as _;

use anyhow::{Context as _, bail};
use flyover_proto::{Control, Deadline, MAX_MESSAGE, Notice, Packet, Text, recv, send};
use nix::sys::signal::SigSet;
use rustix::io::Errno;

pub use deaths::listen as listen_for_deaths;

/// Runs the keeper. The daemon's channel is its standard input.
///
/// # Errors
/// What kept it from starting, for the log; the daemon has been told.
pub fn run() -> anyhow::Result<()> {
    // The daemon blocks the signals that it reads from a descriptor, and its children inherit that.
    SigSet::all()
        .thread_unblock()
        .context("unblocking signals")?;
    let control = std::io::stdin()
        .as_fd()
        .try_clone_to_owned()
        .context("duplicating the daemon's channel")?;
    let started = start(control.as_fd());
    let notice = match &started {
        Ok(_) => Notice::Ready {},
        Err(e) => Notice::Failed {
            text: Text::new(&format!("{e:#}")),
        },
    };
    tell(control.as_fd(), &notice)?;
    started?.run(control);
    Ok(())
}

fn start(control: std::os::fd::BorrowedFd<'_>) -> anyhow::Result<duty::Duty> {
    privilege::give_up().context("giving up privileges")?;
    let mut buf = vec![0; MAX_MESSAGE];
    let (len, fds) = match recv(control, &mut buf, Deadline::NEVER)? {
        Packet::Message(len, fds) => (len, fds),
        Packet::Closed => bail!("the daemon hung up"),
    };
    let (_, setup) = Control::decode(&buf[..len])?;
    // The daemon made the channel: the kernel noted its user.
    let daemon = rustix::net::sockopt::socket_peercred(control)?;
    duty::Duty::new(setup, fds, daemon.uid.as_raw())
}

fn tell(control: std::os::fd::BorrowedFd<'_>, notice: &Notice) -> Result<(), Errno> {
    let mut buf = [0; 1024];
    let len = notice.encode(0, &mut buf).map_err(|_| Errno::MSGSIZE)?;
    send(
        control,
        &buf[..len],
        &[],
        Deadline::after(std::time::Duration::from_millis(100)),
    )
}
