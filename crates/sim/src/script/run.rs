//! Runs a script against one stack.

use super::parse::{Line, Statement, Want, parse};
use super::segment::{Numbers, Pattern};
use crate::host::{Host, HostConfig, Memory};
use crate::net::NetConfig;
use crate::peer::Peer;
use crate::stream;
use flyover_config::{StackOpts, vars};
use flyover_core::sock::SockRef;
use flyover_core::{Error, Kind, Locked, SendFlags};
use flyover_vnic::{MemCsum, MemCut};
use flyover_wire::{Endpoint, L4, TcpHdr, pretty};
use std::collections::VecDeque;

/// A frame that the stack sent, and when.
struct Sent {
    at: u64,
    bytes: Vec<u8>,
}

struct Runner<'m> {
    host: Host<'m>,
    peer: Peer,
    numbers: Numbers,
    listener: Option<SockRef>,
    sock: Option<SockRef>,
    sent: VecDeque<Sent>,
    written: u64,
    read: u64,
    log: Vec<String>,
}

/// Port of the stack.
const PORT: u16 = 80;
/// First port of the peer.
const PEER_PORT: u16 = 40_000;

/// Runs a script.
///
/// # Errors
/// The line that failed, why, and what was seen on the wire until then.
pub fn run(text: &str) -> Result<(), String> {
    let lines = parse(text)?;
    let mut net = NetConfig::clean(1);
    let mut opts = net.opts[0];
    let mut body = lines.as_slice();
    while let [line, rest @ ..] = body {
        match &line.statement {
            Statement::Set(name, value) => set(&mut opts, name, value)?,
            Statement::Mtu(n) => net.mtu = *n,
            _ => break,
        }
        body = rest;
    }
    net.opts[0] = opts;
    net.tso_max = 0;
    net.cut = MemCut::Mtu;
    net.csum = MemCsum::Finished;
    let config = net.host(0);
    let memory = Memory::new(&opts);
    let mut r = Runner::new(&memory, config);
    for line in body {
        let outcome = r.execute(&line.statement);
        outcome.map_err(|e| r.failed(line, &e))?;
    }
    r.quiet()
        .map_err(|e| format!("at the end: {e}\n{}", r.log.join("\n")))
}

fn set(opts: &mut StackOpts, name: &str, value: &str) -> Result<(), String> {
    match vars::apply(opts, name.as_bytes(), value.as_bytes()) {
        None => Err(format!("{name} is no option")),
        Some(r) => r.map_err(|e| format!("{name}: {e}")),
    }
}

fn name_of(e: Error) -> String {
    format!("{e:?} ({})", e.errno())
}

impl<'m> Runner<'m> {
    fn new(memory: &'m Memory, config: HostConfig) -> Self {
        let peer = Peer {
            local: Endpoint {
                ip: config.peer,
                port: PEER_PORT,
            },
            remote: Endpoint {
                ip: config.ip,
                port: PORT,
            },
            mac: config.peer_mac,
            remote_mac: config.nic.mac,
        };
        Self {
            host: Host::new(memory, config),
            peer,
            numbers: Numbers {
                peer: 0x7fff_f000,
                stack: None,
                peer_ts: 0,
                stack_ts: 0,
                peer_stream: stream::Pattern(1),
                stack_stream: stream::Pattern(2),
            },
            listener: None,
            sock: None,
            sent: VecDeque::new(),
            written: 0,
            read: 0,
            log: Vec::new(),
        }
    }

    fn failed(&self, line: &Line, why: &str) -> String {
        let state = self
            .sock
            .map(|s| self.host.stack.sock(s.id).tcp_state().ss_name());
        format!(
            "line {}: {}\n  {why}\n  state {state:?}, at {} ms\n{}",
            line.number,
            line.text,
            self.host.now as f64 / 1e6,
            self.log.join("\n")
        )
    }

    fn note(&mut self, who: &str, bytes: &[u8]) {
        self.log.push(format!(
            "{:>12.3} {who} {}",
            self.host.now as f64 / 1e6,
            pretty::frame(bytes)
        ));
    }

    /// Lets the stack do what is due now, and takes what it sent.
    fn settle(&mut self) {
        for _ in 0..1000 {
            if !self.host.wants_poll() {
                break;
            }
            self.host.tick();
            let _: u32 = self.host.poll();
        }
        while let Some(f) = self.host.nic.take() {
            self.note("stack", &f.bytes);
            self.sent.push_back(Sent {
                at: self.host.now,
                bytes: f.bytes,
            });
        }
    }

    /// Lets time pass, timer by timer.
    fn pass(&mut self, ns: u64) {
        let end = self.host.now + ns;
        self.settle();
        while let Some(t) = self.host.deadline().filter(|t| *t <= end) {
            self.host.now = t.max(self.host.now);
            self.settle();
        }
        self.host.now = end;
        self.settle();
    }

    fn quiet(&mut self) -> Result<(), String> {
        self.settle();
        match self.sent.front() {
            None => Ok(()),
            Some(s) => Err(format!("the stack also sent: {}", pretty::frame(&s.bytes))),
        }
    }

    fn sock(&self) -> Result<SockRef, String> {
        self.sock.ok_or_else(|| "there is no socket".to_owned())
    }

    fn locked<R>(&mut self, f: impl FnOnce(&mut Locked<'_, '_, 'm>) -> R) -> R {
        self.host.locked(f)
    }

    fn execute(&mut self, s: &Statement) -> Result<(), String> {
        if !matches!(
            s,
            Statement::Expect(..) | Statement::State(_) | Statement::Ready(_) | Statement::Stat(..)
        ) {
            self.quiet()?;
        }
        match s {
            Statement::Set(..) | Statement::Mtu(_) => return Err("only at the beginning".into()),
            Statement::Isn(n) => self.numbers.peer = *n,
            Statement::Port(n) => self.peer.local.port = *n,
            Statement::Listen | Statement::Accept | Statement::Connect => self.open(s)?,
            Statement::Send { n, want, more, oob } => {
                self.send(
                    *n,
                    want,
                    SendFlags {
                        more: *more,
                        oob: *oob,
                        eor: false,
                        waits: false,
                    },
                )?;
            }
            Statement::Recv { n, want } => self.recv(*n, want)?,
            Statement::Shutdown(how) => {
                let id = self.sock()?.id;
                self.locked(|l| l.shutdown(id, *how)).map_err(name_of)?;
            }
            Statement::Close => {
                let id = self.sock()?.id;
                self.locked(|l| l.close(id));
            }
            Statement::Abort => {
                let id = self.sock()?.id;
                self.locked(|l| l.abort(id));
            }
            Statement::Opt(opt, v) => {
                let id = self.sock.or(self.listener).ok_or("there is no socket")?.id;
                self.locked(|l| l.set_opt(id, *opt, *v));
            }
            Statement::State(_)
            | Statement::Error(_)
            | Statement::Ready(_)
            | Statement::Stat(..) => self.look(s)?,
            Statement::Wait(ns) => {
                self.pass(*ns);
                self.quiet()?;
            }
            Statement::Inject(p) => {
                let segment = p.build(&mut self.numbers)?;
                let frame = self.peer.tcp(&segment);
                self.note("peer ", &frame.bytes);
                self.host.nic.deliver(frame);
                self.settle();
            }
            Statement::Expect(after, p) => self.expect(*after, p)?,
        }
        Ok(())
    }

    fn open(&mut self, s: &Statement) -> Result<(), String> {
        let (local, remote) = (self.peer.remote, self.peer.local);
        match s {
            Statement::Listen => {
                self.listener = Some(
                    self.locked(|l| {
                        let s = l.sock_alloc(Kind::Tcp, false, 0)?;
                        l.tcp_listen(s.id, local, false, 4).map(|()| s)
                    })
                    .map_err(name_of)?,
                );
            }
            Statement::Accept => {
                let id = self.listener.ok_or("nobody listens")?.id;
                self.sock = Some(self.locked(|l| l.tcp_accept(id)).map_err(name_of)?);
            }
            _ => {
                self.numbers.stack = None;
                self.sock = Some(
                    self.locked(|l| {
                        let s = l.sock_alloc(Kind::Tcp, false, 0)?;
                        l.tcp_connect(s.id, local, remote).map(|()| s)
                    })
                    .map_err(name_of)?,
                );
            }
        }
        if !matches!(s, Statement::Listen) {
            (self.written, self.read) = (0, 0);
        }
        Ok(())
    }

    fn send(&mut self, n: u64, want: &Want, flags: SendFlags) -> Result<(), String> {
        let id = self.sock()?.id;
        let mut data = vec![0; n as usize];
        self.numbers.stack_stream.fill(self.written, &mut data);
        let got = match self.locked(|l| l.tcp_send(id, &[&data], flags)) {
            Ok(n) => {
                self.written += n as u64;
                Want::Bytes(n as u64)
            }
            Err(e) => Want::Error(e.errno()),
        };
        if got == *want {
            Ok(())
        } else {
            Err(format!("came to {got:?}"))
        }
    }

    fn recv(&mut self, n: u64, want: &Want) -> Result<(), String> {
        let sock = self.sock()?;
        let mut data = vec![0; n as usize];
        let got = match self.host.recv(sock, &mut data, false) {
            Ok(0) => Want::Eof,
            Ok(n) => {
                let checked = self.numbers.peer_stream.check(self.read, &data[..n]);
                checked.map_err(|w| format!("{w:?}"))?;
                self.read += n as u64;
                Want::Bytes(n as u64)
            }
            Err(e) => Want::Error(e.errno()),
        };
        if got == *want {
            Ok(())
        } else {
            Err(format!("came to {got:?}"))
        }
    }

    fn look(&self, s: &Statement) -> Result<(), String> {
        let st = self.host.stack;
        let (want, got) = match s {
            Statement::Stat(name, v) => (v.to_string(), self.host.stat(name).to_string()),
            Statement::State(name) => {
                let got = self
                    .sock
                    .and_then(|s| st.get(s))
                    .map_or("none", |s| s.tcp_state().ss_name());
                (name.clone(), got.to_owned())
            }
            Statement::Error(e) => (e.to_string(), st.take_error(self.sock()?.id).to_string()),
            Statement::Ready(bits) => (
                format!("{bits:#x}"),
                format!("{:#x}", st.readiness(self.sock()?.id)),
            ),
            _ => return Ok(()),
        };
        if want == got {
            Ok(())
        } else {
            Err(format!("is {got}"))
        }
    }

    fn expect(&mut self, after: u64, p: &Pattern) -> Result<(), String> {
        self.settle();
        let due = self.host.now + after;
        if after > 0 {
            // The wheel turns in steps of about a millisecond, and coarser ones for longer times.
            let late = (after / 50).max(5_000_000);
            let end = due + late;
            while self.sent.is_empty() {
                match self.host.deadline() {
                    Some(t) if t <= end => self.pass(t.saturating_sub(self.host.now)),
                    _ => break,
                }
            }
        }
        let Some(s) = self.sent.pop_front() else {
            return Err("the stack sent nothing".into());
        };
        let text = pretty::frame(&s.bytes).to_string();
        if s.at < due {
            return Err(format!(
                "the stack sent this {} us early: {text}",
                (due - s.at) / 1000
            ));
        }
        let (hdr, ecn, payload) = tcp(&s.bytes).ok_or_else(|| format!("not TCP: {text}"))?;
        p.compare((&hdr, ecn), payload, &mut self.numbers)
            .map_err(|e| format!("{e}: {text}"))
    }
}

fn tcp(bytes: &[u8]) -> Option<(TcpHdr, u8, &[u8])> {
    let h = flyover_wire::frame::parse(bytes, bytes.len()).ok()?;
    let L4::Tcp(t) = h.l4 else { return None };
    let from = usize::from(h.payload_off);
    Some((t, h.ecn(), bytes.get(from..from + h.payload_len as usize)?))
}
