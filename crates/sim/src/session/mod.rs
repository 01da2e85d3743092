//! Programs at both ends of connections: they connect or accept, write and read in random pieces, pause, and close in
//! some order. They act only when they were woken or their own timer fired: a wake that is lost shows as a
//! connection that does not end.

mod actor;
mod end;
mod plan;

pub use actor::Actor;
pub use end::{Outcome, State};
pub use plan::{End, Plan};

use crate::net::Net;
use crate::rng::Rng;
use crate::stream::Pattern;
use flyover_core::sock::SockRef;
use flyover_core::{Kind, TcpState};
use flyover_wire::Endpoint;

/// Port of the listener.
const SERVER_PORT: u16 = 80;
/// First port of the clients.
const CLIENT_PORT: u16 = 40_000;

/// What one connection is to do.
#[derive(Clone, Debug)]
pub struct Talk {
    /// The active side's plan, and the passive side's.
    pub plans: [Plan; 2],
    /// Which host connects.
    pub client: usize,
    /// Both connect at the same time.
    pub simultaneous: bool,
    /// When it begins, after the session's start, ns.
    pub at: u64,
}

/// Some connections at once.
#[derive(Debug)]
pub struct Session {
    talks: Vec<Talk>,
    /// `actors[2 * i]` is the active side of talk `i`.
    actors: Vec<Actor>,
    listeners: [Option<Actor>; 2],
    begun: u64,
}

/// Steps after which a session counts as endless.
const MAX_STEPS: u64 = 400_000;

impl Session {
    /// A session that has not begun.
    pub fn new(net: &Net<'_>, seed: u64, talks: Vec<Talk>) -> Self {
        let mut actors = Vec::new();
        for (i, t) in talks.iter().enumerate() {
            for side in 0..2 {
                let host = if side == 0 { t.client } else { 1 - t.client };
                let n = (2 * i + side) as u64;
                let pattern = |side: u64| {
                    Pattern(seed ^ (2 * i as u64 + side).wrapping_mul(0xd6e8_feb8_6659_fd93))
                };
                actors.push(Actor::new(
                    host,
                    t.plans[side].clone(),
                    Rng::new(seed, 1000 + n),
                    [pattern(side as u64), pattern(1 - side as u64)],
                ));
            }
        }
        Self {
            talks,
            actors,
            listeners: [None, None],
            begun: net.now,
        }
    }

    /// The two addresses of a connection: the client's, the server's.
    fn endpoints(&self, net: &Net<'_>, talk: usize) -> [Endpoint; 2] {
        let t = &self.talks[talk];
        let client = Endpoint {
            ip: net.hosts[t.client].ip(),
            port: CLIENT_PORT + talk as u16,
        };
        let port = if t.simultaneous {
            SERVER_PORT + 1 + talk as u16
        } else {
            SERVER_PORT
        };
        [
            client,
            Endpoint {
                ip: net.hosts[1 - t.client].ip(),
                port,
            },
        ]
    }

    /// Runs to the end, within `ns` of virtual time, closes everything and checks that nothing is left.
    ///
    /// # Errors
    /// What went wrong.
    pub fn run(&mut self, net: &mut Net<'_>, ns: u64) -> Result<(), String> {
        self.listen(net);
        let limit = net.now + ns;
        let first = net.steps;
        loop {
            self.begin_due(net)?;
            while self.act(net)? {}
            if self.actors.iter().all(Actor::is_done) {
                break;
            }
            if net.lint.as_ref().is_some_and(|l| l.fault.is_some()) {
                break;
            }
            if net.steps - first > MAX_STEPS {
                return Err(format!(
                    "still busy after {MAX_STEPS} steps{}",
                    self.describe(net)
                ));
            }
            let timers = self
                .actors
                .iter()
                .filter_map(Actor::timer)
                .chain(self.next_begin());
            let until = timers.min().unwrap_or(limit).clamp(net.now, limit);
            if !net.step(until) && until == limit {
                return Err(format!(
                    "did not end in {} s{}",
                    ns / 1_000_000_000,
                    self.describe(net)
                ));
            }
        }
        self.finish(net)
    }

    fn describe(&self, net: &Net<'_>) -> String {
        let ends: String = self.actors.iter().map(|a| format!("\n  {a:?}")).collect();
        format!(
            "{ends}\nhost 0:{}\nhost 1:{}",
            net.describe(0),
            net.describe(1)
        )
    }

    fn listen(&mut self, net: &mut Net<'_>) {
        for host in 0..2 {
            if !self
                .talks
                .iter()
                .any(|t| !t.simultaneous && t.client != host)
            {
                continue;
            }
            let ip = net.hosts[host].ip();
            let sock = net.hosts[host].locked(|l| {
                let s = l.sock_alloc(Kind::Tcp, !ip.is_v4(), 0).expect("a slot");
                l.tcp_listen(
                    s.id,
                    Endpoint {
                        ip,
                        port: SERVER_PORT,
                    },
                    false,
                    16,
                )
                .expect("listens");
                s
            });
            self.listeners[host] = Some(Actor::listener(net, host, sock));
        }
    }

    fn next_begin(&self) -> impl Iterator<Item = u64> {
        let waiting = self.talks.iter().zip(self.actors.chunks(2));
        waiting
            .filter(|(_, a)| a[0].state() == State::Idle)
            .map(|(t, _)| self.begun + t.at)
    }

    fn begin_due(&mut self, net: &mut Net<'_>) -> Result<(), String> {
        for i in 0..self.talks.len() {
            let t = &self.talks[i];
            if self.begun + t.at > net.now || self.actors[2 * i].state() != State::Idle {
                continue;
            }
            let [client, server] = self.endpoints(net, i);
            self.actors[2 * i].connect(net, client, server)?;
            if self.talks[i].simultaneous {
                self.actors[2 * i + 1].connect(net, server, client)?;
            }
        }
        Ok(())
    }

    /// Lets everybody act who may. True when somebody did.
    fn act(&mut self, net: &mut Net<'_>) -> Result<bool, String> {
        let mut acted = false;
        for host in 0..2 {
            acted |= self.accept(net, host);
        }
        for i in 0..self.actors.len() {
            acted |= self.actors[i]
                .act(net)
                .map_err(|e| format!("end {i}: {e}{}", self.describe(net)))?;
        }
        // A passive side whose client is gone before it was accepted never begins.
        for i in 0..self.talks.len() {
            let orderly = self.talks[i].plans.iter().all(|p| p.end.is_orderly());
            let client = &self.actors[2 * i];
            if client.is_done() && self.actors[2 * i + 1].state() == State::Idle && !orderly {
                let host = 1 - self.talks[i].client;
                let port = CLIENT_PORT + i as u16;
                let st = net.hosts[host].stack;
                let coming = st.each_sock().any(|r| {
                    let s = st.sock(r.id);
                    s.rport.get() == u32::from(port) && s.tcp_state() != TcpState::TimeWait
                });
                if !coming {
                    self.actors[2 * i + 1].never_began();
                    acted = true;
                }
            }
        }
        Ok(acted)
    }

    fn accept(&mut self, net: &mut Net<'_>, host: usize) -> bool {
        let Some(listener) = &mut self.listeners[host] else {
            return false;
        };
        if !listener.wakes_up(net) {
            return false;
        }
        let mut got: Vec<SockRef> = Vec::new();
        while let Ok(s) = net.hosts[host].locked(|l| l.tcp_accept(listener.sock().id)) {
            got.push(s);
        }
        listener.sleep(net);
        for s in got {
            let remote = net.hosts[host].stack.sock(s.id).remote();
            let talk = usize::from(remote.port - CLIENT_PORT);
            self.actors[2 * talk + 1].adopt(net, s);
        }
        true
    }

    fn finish(&mut self, net: &mut Net<'_>) -> Result<(), String> {
        if let Some(fault) = net.lint.as_ref().and_then(|l| l.fault.clone()) {
            return Err(format!("on the wire: {fault}{}", self.describe(net)));
        }
        for listener in self.listeners.iter_mut().flatten() {
            listener.release(net);
        }
        for a in &mut self.actors {
            a.release(net);
        }
        // Loss may hold up the last ACK and FIN for long: orphans give up after a while, TIME_WAIT is a minute.
        if !net.run_until_idle(1_500_000_000_000) {
            return Err(format!("never comes to rest{}", self.describe(net)));
        }
        net.nothing_left()?;
        for (i, t) in self.talks.iter().enumerate() {
            self.judge(i, t)
                .map_err(|e| format!("talk {i}: {e}\n  {:?}{}", t, self.describe(net)))?;
        }
        Ok(())
    }

    /// What both sides must have seen.
    fn judge(&self, i: usize, talk: &Talk) -> Result<(), String> {
        let orderly = talk.plans.iter().all(|p| p.end.is_orderly());
        for side in 0..2 {
            let (me, peer) = (&self.actors[2 * i + side], &self.actors[2 * i + 1 - side]);
            let out = me.outcome();
            if out.read > peer.outcome().sent {
                return Err(format!(
                    "side {side} read {} of {} bytes sent",
                    out.read,
                    peer.outcome().sent
                ));
            }
            if !orderly {
                continue;
            }
            if out.error != 0 {
                return Err(format!("side {side} failed with errno {}", out.error));
            }
            if !out.eof
                || out.read != talk.plans[1 - side].send
                || out.sent != talk.plans[side].send
            {
                return Err(format!("side {side} ended with {out:?}"));
            }
        }
        Ok(())
    }
}
