//! Programs of different users, and of different containers, on one host: their connections go through shared memory where
//! the administrator's policy lets them share a stack (`flyoverd --share`), and both ask for it; everywhere else they stay
//! with the kernel.

use std::ffi::OsString;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use flyover_e2e::cleanup;
use flyover_e2e::cmd::{Cmd, Proc};
use flyover_e2e::lab::{Host, Lab, Side, ensure_equal, wait_until};
use flyover_e2e::runner::{Case, scripts};
use flyover_e2e::user::wait_for_line;
use flyover_e2e::wiring;
use rustix::process::Signal;

const HERE: Host = Host::Server;
const LIMIT: Duration = Duration::from_secs(30);
/// Names of the system's users, and a number that is nobody's.
const POLICY: &str = "pair=nobody+daemon,other=nobody+54321";
/// `nobody`, `daemon`, and one whom the policy does not name.
const NOBODY: u32 = 65_534;
const DAEMON: u32 = 1;
const STRANGER: u32 = 2;

pub fn cases(cases: &mut Vec<Case>) {
    let mut add = |name: &str, work: fn(&Lab) -> Result<()>| {
        let case = Case::new(format!("shared.{name}"), move |setup| {
            let mut setup = setup.clone();
            setup.daemon_options = ["--share", POLICY].map(str::to_owned).into();
            let lab = wiring::pair(&setup, Side::Server)?;
            work(&lab)?;
            lab.finish()
        });
        cases.push(case.only_flyover());
    };
    add("two-users", two_users);
    add("not-allowed", not_allowed);
    add("containers", containers);
    add("seen-from-containers", seen_from_containers);
    add("after-restart", after_restart);
    add("given-away", given_away);
}

/// Who runs an end, and where.
#[derive(Clone, Copy)]
struct End {
    uid: u32,
    stack: &'static str,
    place: Place,
}

#[derive(Clone, Copy)]
enum Place {
    /// As the daemon itself.
    Home,
    /// In process and mount namespaces of its own; the network namespace is that of all, as in a pod.
    Container,
    /// The same in a user namespace, in which it is root.
    Rootless,
}

const UNSHARE: &str = "unshare --pid --mount --fork --kill-child --mount-proc";

const fn end(uid: u32, stack: &'static str) -> End {
    End {
        uid,
        stack,
        place: Place::Home,
    }
}

impl End {
    fn within(self, place: Place) -> Self {
        Self { place, ..self }
    }

    /// `flyover` as this user at this place.
    fn flyover<'lab>(&self, lab: &'lab Lab) -> Cmd<'lab> {
        let uid = self.uid;
        let user = format!("setpriv --reuid={uid} --regid={uid} --clear-groups");
        let words = match self.place {
            Place::Home => user,
            Place::Container => format!("{UNSHARE} {user}"),
            Place::Rootless => format!("{user} {UNSHARE} --user --map-root-user"),
        };
        let wrapper = words.split_whitespace().map(OsString::from).collect();
        lab.wrapped(HERE, wrapper, lab.bin().join("flyover"))
    }

    fn command<'lab>(&self, lab: &'lab Lab, role: &str, port: u16) -> Cmd<'lab> {
        let words = format!("{role} {port}");
        self.python(lab, "two_ends.py").args(&words)
    }

    fn python<'lab>(&self, lab: &'lab Lab, script: &str) -> Cmd<'lab> {
        let run = format!("run --stack {} -- /usr/bin/python3 -u", self.stack);
        let script = scripts().join(script);
        self.flyover(lab).args(&run).arg(script).piped()
    }

    /// A program that uses a stack.
    fn attached(&self, lab: &Lab) -> Result<Proc> {
        let mut program = self.python(lab, "user_attach.py").spawn()?;
        wait_for_line(&mut program)?;
        Ok(program)
    }
}

fn wait_for(program: &mut Proc, word: &str) -> Result<()> {
    wait_until(LIMIT, || {
        if program.stdout().contains(word) {
            return Ok(Some(()));
        }
        program.ensure_running()?;
        Ok(None)
    })
    .with_context(|| format!("waiting for {word:?}"))
}

/// The two ends talk; `flyover ss` has to show this path for both. Then the server is killed: what it had sent comes, and
/// the end.
fn talk(lab: &Lab, server: End, client: End, port: u16, path: &str) -> Result<()> {
    let (a, b) = meet(lab, server, (client, "client"), port)?;
    ensure_path(lab, port, path)?;
    part(a, b, "talked\n50000 end\n")
}

/// The ends when they have talked.
fn meet(lab: &Lab, server: End, client: (End, &str), port: u16) -> Result<(Proc, Proc)> {
    let mut a = server.command(lab, "server", port).spawn()?;
    wait_for(&mut a, "listening")?;
    let mut b = client.0.command(lab, client.1, port).spawn()?;
    wait_for(&mut b, "talked")?;
    wait_for(&mut a, "sent")?;
    Ok((a, b))
}

fn ensure_path(lab: &Lab, port: u16, path: &str) -> Result<()> {
    let mut lines = lab.ss(HERE)?;
    lines.retain(|line| line.has_port(port) && line.state == "ESTAB");
    ensure_equal("ends", lines.len(), 2)?;
    ensure!(lines.iter().all(|line| line.path == path), "{lines:?}");
    Ok(())
}

fn part(a: Proc, mut b: Proc, wanted: &str) -> Result<()> {
    for pid in a.tree() {
        cleanup::signal(pid, Signal::KILL);
    }
    drop(a.finish(LIMIT)?);
    b.write_line("go on")?;
    let said = b.finish(LIMIT)?.success()?.stdout;
    ensure!(said == wanted, "the client said {said:?}");
    Ok(())
}

/// Whom the policy names, and who asks for the stack of that name.
fn two_users(lab: &Lab) -> Result<()> {
    talk(lab, end(NOBODY, "pair"), end(DAEMON, "pair"), 7801, "shm")?;
    // Whoever comes first.
    talk(lab, end(DAEMON, "pair"), end(NOBODY, "pair"), 7802, "shm")?;
    talk(lab, end(NOBODY, "pair"), end(NOBODY, "pair"), 7803, "shm")
}

/// One of the two has another stack: the connection stays in the kernel, with the kernel's semantics.
fn not_allowed(lab: &Lab) -> Result<()> {
    let kernel = [
        // Both are named, and one does not ask for it; neither does.
        (end(NOBODY, "pair"), end(DAEMON, "default")),
        (end(NOBODY, "default"), end(DAEMON, "default")),
        // Not named; named for another stack; no such stack in the policy.
        (end(NOBODY, "pair"), end(STRANGER, "pair")),
        (end(NOBODY, "other"), end(DAEMON, "other")),
        (end(NOBODY, "third"), end(DAEMON, "third")),
    ];
    for (port, (server, client)) in (7811..).zip(kernel) {
        talk(lab, server, client, port, "kernel")
            .with_context(|| format!("{} and {}", server.stack, client.stack))?;
    }
    Ok(())
}

/// Containers with one network namespace and the daemon's socket: one user, and two.
fn containers(lab: &Lab) -> Result<()> {
    let default = end(NOBODY, "default");
    let (nobody, daemon) = (end(NOBODY, "pair"), end(DAEMON, "pair"));
    let (other, numbered) = (end(NOBODY, "other"), end(54_321, "other"));
    let boxed = Place::Container;
    let talks = [
        (default, default, "shm"),
        (default.within(boxed), default.within(boxed), "kernel"),
        (default.within(boxed), default, "kernel"),
        (nobody.within(boxed), nobody.within(boxed), "shm"),
        (nobody.within(boxed), daemon.within(boxed), "shm"),
        (daemon, nobody.within(boxed), "shm"),
        (other, numbered.within(Place::Rootless), "shm"),
        (numbered.within(Place::Rootless), other.within(boxed), "shm"),
    ];
    for (port, (server, client, path)) in (7821..).zip(talks) {
        talk(lab, server, client, port, path).with_context(|| format!("port {port}"))?;
    }
    Ok(())
}

/// Number of stacks that `flyover ps` shows there.
fn stacks_seen(lab: &Lab, from: End) -> Result<usize> {
    let said = from.flyover(lab).args("ps --json").run(LIMIT)?.success()?;
    let ps: serde_json::Value = serde_json::from_str(&said.stdout)?;
    let stacks = ps["stacks"].as_array().context("no stacks")?;
    Ok(stacks.len())
}

/// Nobody gets at the memory of another container's stack by asking for it, not even who is root there.
fn seen_from_containers(lab: &Lab) -> Result<()> {
    let default = end(NOBODY, "default");
    let boxed = Place::Container;
    let server = default.within(boxed).attached(lab)?;
    let root = end(0, "default");
    for (who, seen) in [
        (default, 1),
        (root, 1),
        (end(DAEMON, "default"), 0),
        (default.within(boxed), 0),
        (root.within(boxed), 0),
    ] {
        ensure_equal("stacks seen", stacks_seen(lab, who)?, seen)
            .with_context(|| format!("user {}", who.uid))?;
    }
    let shared = end(NOBODY, "pair").attached(lab)?;
    let named = end(DAEMON, "pair").within(boxed);
    ensure_equal("shared stacks seen", stacks_seen(lab, named)?, 1)?;
    ensure_equal("of a stranger", stacks_seen(lab, end(STRANGER, "pair"))?, 0)?;
    for program in [server, shared] {
        drop(program.finish(LIMIT)?.success()?);
    }
    Ok(())
}

/// The next daemon knows the stack, and lets in whom the policy names.
fn after_restart(lab: &Lab) -> Result<()> {
    let daemon = lab.daemon().context("no daemon")?;
    let boxed = Place::Container;
    let mut programs = vec![
        end(NOBODY, "pair").attached(lab)?,
        end(NOBODY, "default").within(boxed).attached(lab)?,
    ];
    daemon.kill()?;
    daemon.succeed()?;
    programs.push(end(DAEMON, "pair").within(boxed).attached(lab)?);
    let root = end(0, "default");
    ensure_equal("stacks", stacks_seen(lab, root)?, 2)?;
    programs.push(end(NOBODY, "default").attached(lab)?);
    ensure_equal("stacks", stacks_seen(lab, root)?, 3)?;
    programs.push(end(STRANGER, "pair").attached(lab)?);
    ensure_equal("stacks", stacks_seen(lab, root)?, 4)?;
    for program in programs {
        drop(program.finish(LIMIT)?.success()?);
    }
    Ok(())
}

/// A program gives its end away while bytes wait in it: they go through the kernel, from a descriptor that only the daemon can
/// lend.
fn given_away(lab: &Lab) -> Result<()> {
    let boxed = Place::Container;
    let (nobody, daemon) = (end(NOBODY, "pair"), end(DAEMON, "pair"));
    let ends = [
        (nobody, daemon),
        (nobody.within(boxed), nobody.within(boxed)),
    ];
    for (port, (server, client)) in (7841..).zip(ends) {
        let (a, mut b) = meet(lab, server, (client, "giver"), port)?;
        ensure_path(lab, port, "shm")?;
        b.write_line("give")?;
        wait_for(&mut b, "given")?;
        ensure_path(lab, port, "kernel")?;
        part(a, b, "talked\ngiven\n50000 end\n").with_context(|| format!("port {port}"))?;
    }
    Ok(())
}
