//! A live connection that a test asks for one echo at a time.
//!
//! `load echo interactive` holds the connection; it runs under Flyover when its host does. So a
//! test can change the world between two echoes and see whether the connection still works.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::cmd::Proc;
use crate::lab::{Host, Lab, wait_until};
use crate::procfs::Proto;

/// An echo server on the server host.
pub fn serve(lab: &Lab, port: u16) -> Result<Proc> {
    let mut server = lab
        .workload(Host::Server, "echo")
        .arg("serve")
        .arg(format!("[::]:{port}"))
        .spawn()?;
    lab.wait_for_port(Proto::Tcp, port, &mut server)?;
    Ok(server)
}

/// One connection from the client host, made when this is created.
#[derive(Debug)]
pub struct Probe {
    program: Proc,
    answers: usize,
}

impl Probe {
    /// Connects to `address`.
    pub fn connect(lab: &Lab, address: SocketAddr) -> Result<Self> {
        let program = lab
            .workload(Host::Client, "echo")
            .arg("interactive")
            .arg(address.to_string())
            .piped()
            .spawn()?;
        let mut probe = Self {
            program,
            answers: 0,
        };
        probe
            .answer(Duration::from_secs(10))
            .context("connecting")?;
        Ok(probe)
    }

    /// Sends `len` bytes and waits for the same bytes. An error when they do not come in time, are
    /// not the same, or the connection is broken.
    pub fn echo(&mut self, len: usize, limit: Duration) -> Result<()> {
        self.ask(len)?;
        self.answer(limit)
    }

    /// Sends only; [`Probe::answer`] waits for the echo.
    pub fn ask(&mut self, len: usize) -> Result<()> {
        self.program.write_line(&len.to_string())
    }

    /// Waits for the echo of the oldest request that has none yet.
    pub fn answer(&mut self, limit: Duration) -> Result<()> {
        let number = self.answers;
        let program = &mut self.program;
        let line = wait_until(limit, || {
            let line = program.stdout().lines().nth(number).map(str::to_owned);
            if line.is_none() {
                program.ensure_running()?;
            }
            Ok(line)
        })
        .context("waiting for an echo")?;
        self.answers += 1;
        ensure!(line == "ok", "{line}");
        Ok(())
    }

    /// Has the answer to the oldest request come?
    pub fn has_answer(&self) -> bool {
        self.program.stdout().lines().count() > self.answers
    }

    /// The program that holds the connection.
    pub fn program(&mut self) -> &mut Proc {
        &mut self.program
    }
}
