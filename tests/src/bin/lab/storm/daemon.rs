//! The daemon storm: the daemon is killed at random moments and another one is started in its place, beside verified
//! transfers of living programs, programs that write and exit at once, and programs that are killed while no daemon runs.
//! Nothing may be lost or left, and after each round what the living programs open is accelerated.

use std::fs;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use flyover_e2e::cleanup;
use flyover_e2e::cmd::{Cmd, Proc};
use flyover_e2e::lab::{CLIENT, Host, Lab, SERVER, Setup, Side, wait_until};
use flyover_e2e::pattern::Random;
use flyover_e2e::procfs::{self, Proto};
use flyover_e2e::runner::Case;
use flyover_e2e::wiring;
use rustix::process::Signal;

use super::kills::{dump, number, resets, sockets, verdict};

const LIMIT: Duration = Duration::from_secs(30);
const SINK: u16 = 7801;
const ECHO: u16 = 7802;
const SERVED: u16 = 7803;
/// New sockets are accelerated again within this time: at the second look at the latest, and one may wait for 5 s.
const SOON: Duration = Duration::from_secs(6);
/// Killed in continuous integration.
const IN_CI: u64 = 8;
/// What a program writes before it exits.
const BYTES: u64 = 3_000_000;

/// A workload, on the stack if it is the server's. Without `flyover run`, which would start a daemon where there is none.
fn workload<'lab>(lab: &'lab Lab, host: Host, name: &str) -> Cmd<'lab> {
    let program = lab.plain(host, lab.bin().join("load")).arg(name);
    match host {
        Host::Client => program,
        Host::Server => program
            .env("LD_PRELOAD", lab.bin().join("libflyover.so"))
            .env("FLYOVER_TIME_WAIT_MS", "2000"),
    }
}

/// What continuous integration runs.
pub fn cases(cases: &mut Vec<Case>) {
    let storm = |setup: &Setup| case(setup, IN_CI, 1);
    let ci = Case::new("storm.daemon.server".to_owned(), storm);
    cases.push(ci.only_flyover());
}

pub fn case(setup: &Setup, kills: u64, seed: u64) -> Result<()> {
    let lab = wiring::pair(setup, Side::Server)?;
    storm(&lab, kills, seed)?;
    lab.finish()?;
    ensure!(keepers().is_empty(), "keepers are left: {:?}", keepers());
    Ok(())
}

/// Programs of both sides, which live through it all.
struct World<'lab> {
    lab: &'lab Lab,
    sink: Proc,
    echo: Proc,
    served: Proc,
    /// Verifying clients: one of the stack's server, and one on the stack, whose sockets ask the daemon for filters.
    loads: Vec<Proc>,
    /// Connects when it is told to: an old program with new sockets.
    caller: Proc,
    called: usize,
    hurt: u64,
}

impl<'lab> World<'lab> {
    fn new(lab: &'lab Lab) -> Result<Self> {
        let sink = workload(lab, Host::Client, "storm").args(&format!("sink {CLIENT}:{SINK}"));
        let mut sink = sink.spawn()?;
        lab.wait_for_port_on(Host::Client, Proto::Tcp, SINK, &mut sink)?;
        let echo = workload(lab, Host::Client, "echo").args(&format!("serve {CLIENT}:{ECHO}"));
        let mut echo = echo.spawn()?;
        lab.wait_for_port_on(Host::Client, Proto::Tcp, ECHO, &mut echo)?;
        let served = workload(lab, Host::Server, "echo").args(&format!("serve {SERVER}:{SERVED}"));
        let mut served = served.spawn()?;
        lab.wait_for_port(Proto::Tcp, SERVED, &mut served)?;
        let caller = workload(lab, Host::Server, "storm")
            .args(&format!("caller {CLIENT}:{ECHO}"))
            .env("FLYOVER_LOG", "info")
            .piped()
            .spawn()?;
        Ok(Self {
            lab,
            sink,
            echo,
            served,
            loads: vec![load(lab, 0)?, load(lab, 1)?],
            caller,
            called: 0,
            hurt: 0,
        })
    }

    fn ensure_well(&mut self) -> Result<()> {
        for program in [
            &mut self.sink,
            &mut self.echo,
            &mut self.served,
            &mut self.caller,
        ] {
            program.ensure_running()?;
        }
        for (i, client) in self.loads.iter_mut().enumerate() {
            if client.has_ended()? {
                self.hurt += resets(std::mem::replace(client, load(self.lab, i)?))?;
            }
        }
        Ok(())
    }

    /// The old program opens another connection, which must be accelerated: at once, unless the machine is so busy that
    /// the new daemon did not answer in time.
    fn call(&mut self) -> Result<()> {
        let mut last = None;
        let called = wait_until(SOON, || {
            self.called += 1;
            let port = self.one_call()?;
            let served = self.lab.ensure_accelerated(Host::Server, Proto::Tcp, port);
            last = served.err();
            Ok(last.is_none().then_some(()))
        });
        match (called, last) {
            (Err(_), Some(error)) => Err(error),
            (called, _) => called,
        }
    }

    /// Opens a connection, and returns its local port.
    fn one_call(&mut self) -> Result<u16> {
        self.caller.write_line("call")?;
        let line = wait_until(LIMIT, || {
            self.caller.ensure_running()?;
            let said = self.caller.stdout();
            Ok(said.lines().nth(self.called - 1).map(str::to_owned))
        })?;
        line.trim().parse().with_context(|| line.clone())
    }
}

fn load(lab: &Lab, which: usize) -> Result<Proc> {
    let (host, to) = match which {
        0 => (Host::Client, format!("{SERVER}:{SERVED}")),
        _ => (Host::Server, format!("{CLIENT}:{ECHO}")),
    };
    workload(lab, host, "echo")
        .args(&format!(
            "load {to} --connections 3 --seconds 3 --max 60000 --resets"
        ))
        .spawn()
}

fn storm(lab: &Lab, kills: u64, seed: u64) -> Result<()> {
    let daemon = lab.daemon().context("no daemon")?;
    let mut random = Random::new(seed);
    let mut world = World::new(lab)?;
    let mut both = 0;
    for round in 1..=kills {
        let writer = workload(lab, Host::Server, "storm")
            .args(&format!("leave {CLIENT}:{SINK} {round} {BYTES}"))
            .spawn()?;
        let victim = load(lab, 1)?;
        thread::sleep(Duration::from_micros(random.below(60_000)));
        daemon.kill()?;
        // Sometimes the next one is there at once, sometimes it takes a while; meanwhile programs die.
        thread::sleep(Duration::from_micros(
            random.below(2) * random.below(300_000),
        ));
        victim.signal(Signal::KILL);
        if random.percent(25.0) {
            // Nobody is left who hears of the end of sockets, and has what the next daemon needs, but the programs.
            keepers()
                .into_iter()
                .for_each(|pid| cleanup::signal(pid, Signal::KILL));
            both += 1;
        }
        victim.finish(LIMIT)?.forget();
        daemon.succeed()?;
        if random.percent(25.0) {
            // The keeper that was taken over dies as well.
            dump(lab).context("asking the new daemon")?;
            keepers()
                .into_iter()
                .for_each(|pid| cleanup::signal(pid, Signal::KILL));
        }
        writer.finish(LIMIT)?.success()?.forget();
        let (bytes, end) = wait_until(LIMIT, || Ok(verdict(&world.sink, round)))
            .with_context(|| format!("daemon {round}: what the program left is not delivered"))?;
        ensure!(
            bytes == BYTES && end == "eof",
            "daemon {round}: {bytes} of {BYTES} bytes, then {end}"
        );
        world.ensure_well()?;
        world
            .call()
            .with_context(|| format!("daemon {round}: an old program's new connection"))?;
    }
    end(world, kills, both)
}

fn end(mut world: World<'_>, kills: u64, both: u64) -> Result<()> {
    let lab = world.lab;
    world.ensure_well()?;
    for client in world.loads {
        world.hurt += resets(client)?;
    }
    world.caller.signal(Signal::KILL);
    let inside = settle(lab)?;
    let hurt = world.hurt;
    eprintln!(
        "    {kills} daemons killed, {both} with their keepers, {inside} deaths inside the lock; {hurt} connections reset"
    );
    ensure!(
        hurt <= inside,
        "{hurt} connections reset, but only {inside} deaths inside the lock"
    );
    for program in [world.served, world.sink, world.echo] {
        program.signal(Signal::KILL);
    }
    let daemon = lab.daemon().context("no daemon")?;
    wait_until(LIMIT, || {
        let notes = fs::read_dir(daemon.notes())?.count();
        Ok((keepers().is_empty() && notes == 0).then_some(()))
    })
    .context("keepers or notes are left")
}

/// The keepers of this run.
fn keepers() -> Vec<u32> {
    let all = procfs::descendants(std::process::id()).into_iter();
    all.filter(|pid| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.starts_with(b"flyoverd-keeper\0") && procfs::is_running(*pid)
    })
    .collect()
}

/// Waits until only the server's own sockets are left, with their filters, and returns how many deaths were inside the
/// lock.
fn settle(lab: &Lab) -> Result<u64> {
    let mut last = String::new();
    let inside = wait_until(Duration::from_secs(90), || {
        let dump = dump(lab)?;
        let left = ["sockets_used", "buffers_used"].map(|name| number(&dump, name));
        let filters = dump["filters"].as_array().map_or(0, Vec::len);
        last = format!("{left:?}, {filters} filters; {}", sockets(&dump));
        let clean = left[0] <= 2 && left[1] == 0 && filters <= 2;
        Ok(clean.then(|| number(&dump, "takeovers")))
    });
    inside.with_context(|| format!("what is left in the stack: {last}"))
}
