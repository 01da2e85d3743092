//! Without root and with nothing started beforehand: the daemon that the first `flyover run` of an ordinary user starts,
//! its life and its end.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use flyover_e2e::cmd::Proc;
use flyover_e2e::lab::{Host, Lab, Side, ensure_equal, wait_until};
use flyover_e2e::runner::Case;
use flyover_e2e::user::{LIMIT, User, ensure_quiet, wait_for_line};
use flyover_e2e::{cleanup, procfs};
use rustix::process::Signal;
use serde_json::Value;

use super::on_pair;

const HERE: Host = Host::Server;

pub fn cases(cases: &mut Vec<Case>) {
    let mut add = |name: &str, work: fn(&Lab) -> Result<()>| {
        cases.push(on_pair(name, Side::Neither, work).only_flyover());
    };
    add("user.first-runs", first_runs);
    add("user.many-at-once", many_at_once);
    add("user.ends-and-returns", ends_and_returns);
    add("user.late-socket", late_socket);
    add("user.left-behind", left_behind);
    add("user.nested", nested);
    add("user.killed-daemon", killed_daemon);
    add("user.stopped-daemon", stopped_daemon);
    add("user.killed-keeper", killed_keeper);
    add("user.namespaces", namespaces);
    add("user.check", check);
}

/// Process numbers of the only stack in an answer of `ps`.
fn processes(ps: &Value) -> Result<Vec<u64>> {
    let stacks = ps["stacks"].as_array().context("no stacks")?;
    ensure_equal("stacks", stacks.len(), 1)?;
    let list = stacks[0]["processes"].as_array().context("no processes")?;
    let mut pids: Vec<u64> = list.iter().filter_map(|p| p["pid"].as_u64()).collect();
    pids.sort_unstable();
    Ok(pids)
}

fn end(programs: Vec<Proc>) -> Result<()> {
    programs
        .into_iter()
        .try_for_each(|program| ensure_quiet(program.finish(LIMIT)?))
}

/// Two at once, three times: one daemon, one stack for both, and nothing is left.
fn first_runs(lab: &Lab) -> Result<()> {
    let user = User::new(lab)?;
    for _ in 0..3 {
        let start = |_| user.attacher(HERE).piped().spawn();
        let mut programs = (0..2).map(start).collect::<Result<Vec<_>>>()?;
        programs.iter_mut().try_for_each(wait_for_line)?;
        ensure_equal("daemons", user.daemons().len(), 1)?;
        let ps = user.ps(HERE)?;
        ensure!(ps["daemon"]["local_only"] == true, "{ps}");
        let mut pids: Vec<u64> = programs.iter().map(|p| p.pid().into()).collect();
        pids.sort_unstable();
        ensure!(processes(&ps)? == pids, "{ps}");
        let stack = &ps["stacks"][0];
        ensure!(stack["uid"] == user.uid, "{stack}");
        ensure!(
            stack["vnics"].as_array().is_some_and(Vec::is_empty),
            "{stack}"
        );
        // Of a memory of hundreds of megabytes.
        let used = stack["used_bytes"].as_u64().context("no size")?;
        ensure!(used < 1 << 20, "{used} bytes for two listeners");
        end(programs)?;
        user.ensure_gone()?;
    }
    Ok(())
}

/// Short programs, many at once: none of them fails.
fn many_at_once(lab: &Lab) -> Result<()> {
    let user = User::new(lab)?;
    let start = |_| user.attacher(HERE).spawn();
    let programs = (0..12).map(start).collect::<Result<Vec<_>>>()?;
    end(programs)?;
    user.ensure_gone()
}

/// Programs that start about when the daemon ends, whatever comes first.
fn ends_and_returns(lab: &Lab) -> Result<()> {
    let user = User::new(lab)?;
    end(vec![user.attached(HERE)?])?;
    let start = Instant::now();
    user.ensure_gone()?;
    let span = start.elapsed();
    let (mut same, mut another) = (0, 0);
    let mut last = Vec::new();
    for round in 0..8u32 {
        let program = user.attached(HERE)?;
        let now = user.daemons();
        ensure_equal("daemons", now.len(), 1)?;
        *(if now == last { &mut same } else { &mut another }) += 1;
        last = now;
        end(vec![program])?;
        // A program takes about this long from its start to its look for the daemon.
        let early = Duration::from_millis(100 - u64::from(round) * 13);
        std::thread::sleep(span.saturating_sub(early));
    }
    println!("\n    {span:.1?} to the end; then {same} came in time and {another} late");
    user.ensure_gone()
}

/// A program that makes its first socket long after an idle daemon would have ended, in a process of its own.
fn late_socket(lab: &Lab) -> Result<()> {
    let user = User::new(lab)?;
    let script = flyover_e2e::runner::scripts().join("user_attach.py");
    let line = format!("sleep 4; /usr/bin/python3 {}", script.display());
    let run = user.flyover(HERE, "run -- /bin/sh -c").arg(line);
    let mut program = run.piped().spawn()?;
    wait_for_line(&mut program)?;
    ensure_equal("processes", processes(&user.ps(HERE)?)?.len(), 1)?;
    end(vec![program])?;
    user.ensure_gone()
}

/// The same in a process that the program left behind, itself long gone.
fn left_behind(lab: &Lab) -> Result<()> {
    let user = User::new(lab)?;
    let script = flyover_e2e::runner::scripts().join("user_attach.py");
    let line = format!("(sleep 5; /usr/bin/python3 {}) &", script.display());
    let run = user.flyover(HERE, "run -- /bin/sh -c").arg(line);
    let mut program = run.spawn()?;
    wait_until(LIMIT, || Ok(program.has_ended()?.then_some(())))?;
    ensure!(program.stdout().is_empty());
    wait_until(LIMIT, || Ok(program.stdout().contains('\n').then_some(())))?;
    end(vec![program])?;
    user.ensure_gone()
}

/// `flyover run` in a program under `flyover run`: of a daemon that was ended meanwhile, and in another network namespace.
fn nested(lab: &Lab) -> Result<()> {
    let user = User::new(lab)?;
    let flyover = lab.bin().join("flyover");
    let flyover = flyover.display();
    let script = flyover_e2e::runner::scripts().join("user_attach.py");
    let again = format!("{flyover} run -- /usr/bin/python3 {}", script.display());
    let lines = [
        format!("{flyover} daemon stop >&2; {again}"),
        format!("unshare -rn {again}"),
    ];
    for line in lines {
        let run = user.flyover(HERE, "run -- /bin/sh -c").arg(&line);
        let output = run.run(LIMIT)?;
        let said = output.stderr.replace("flyoverd stopped\n", "");
        ensure!(said.is_empty(), "{line}: {said}");
    }
    user.ensure_gone()
}

/// The socket of a killed daemon is in nobody's way, and the programs that it served go on.
fn killed_daemon(lab: &Lab) -> Result<()> {
    let user = User::new(lab)?;
    let mut first = user.attached(HERE)?;
    let [daemon] = user.daemons()[..] else {
        anyhow::bail!("not one daemon: {:?}", user.daemons());
    };
    cleanup::signal(daemon, Signal::KILL);
    wait_until(LIMIT, || {
        cleanup::reap_orphans();
        Ok((!procfs::is_running(daemon)).then_some(()))
    })?;
    let second = user.attached(HERE)?;
    ensure!(user.daemons() != [daemon]);
    ensure_equal("processes", processes(&user.ps(HERE)?)?.len(), 1)?;
    first.ensure_running()?;
    end(vec![first, second])?;
    user.ensure_gone()
}

/// SIGTERM ends it in order: nothing is left in its place, the programs go on, and the next one starts another daemon.
fn stopped_daemon(lab: &Lab) -> Result<()> {
    let user = User::new(lab)?;
    let first = user.attached(HERE)?;
    let stopped = user.flyover(HERE, "daemon stop").run(LIMIT)?;
    ensure!(stopped.stdout.contains("stopped"), "{}", stopped.stdout);
    ensure!(!user.place().exists(), "the place is still there");
    let status = user.flyover(HERE, "daemon status").output(LIMIT)?;
    ensure!(status.status.code() == Some(3), "{}", status.stdout);
    let second = user.attached(HERE)?;
    let status = user.flyover(HERE, "daemon status").run(LIMIT)?;
    let socket = user.socket()?.display().to_string();
    ensure!(status.stdout.contains(&socket), "{}", status.stdout);
    end(vec![first, second])?;
    user.ensure_gone()
}

/// Another keeper takes over, and the stack is the same.
fn killed_keeper(lab: &Lab) -> Result<()> {
    let user = User::new(lab)?;
    let first = user.attached(HERE)?;
    let keeper = || -> Result<Option<u32>> {
        let pid = user.ps(HERE)?["stacks"][0]["keeper_pid"].as_u64();
        Ok(pid.map(u32::try_from).transpose()?)
    };
    let old = keeper()?.context("no keeper")?;
    cleanup::signal(old, Signal::KILL);
    wait_until(LIMIT, || Ok(keeper()?.filter(|pid| *pid != old)))?;
    let second = user.attached(HERE)?;
    ensure_equal("processes", processes(&user.ps(HERE)?)?.len(), 2)?;
    end(vec![first, second])?;
    user.ensure_gone()
}

/// Each network namespace has a daemon and a stack; a user namespace in which the user is root changes nothing.
fn namespaces(lab: &Lab) -> Result<()> {
    let mut user = User::new(lab)?;
    let here = user.attached(HERE)?;
    let there = user.attached(Host::Client)?;
    ensure_equal("daemons", user.daemons().len(), 2)?;
    ensure!(processes(&user.ps(HERE)?)? == [u64::from(here.pid())]);
    ensure!(processes(&user.ps(Host::Client)?)? == [u64::from(there.pid())]);
    user.before = ["unshare", "-r"].map(Into::into).into();
    let root = user.attached(HERE)?;
    ensure_equal("daemons", user.daemons().len(), 2)?;
    ensure_equal("processes", processes(&user.ps(HERE)?)?.len(), 2)?;
    end(vec![here, there, root])?;
    // Whoever is root only there starts a daemon, too.
    user.ensure_gone()?;
    let root = user.attached(HERE)?;
    ensure!(user.ps(HERE)?["daemon"]["local_only"] == true);
    end(vec![root])?;
    user.ensure_gone()
}

/// What works without privilege, and what does not; looking starts and makes nothing.
fn check(lab: &Lab) -> Result<()> {
    let user = User::new(lab)?;
    let said = user.flyover(HERE, "check --json").run(LIMIT)?;
    let report: Value = serde_json::from_str(&said.stdout)?;
    ensure!(report["local_path"] == true && report["accelerated"] == false);
    let interfaces = report["interfaces"].as_array().context("no interfaces")?;
    let eth0 = interfaces.iter().find(|i| i["name"] == "eth0");
    let eth0 = eth0.context("no eth0")?;
    ensure!(eth0["vnic"].is_null(), "{eth0}");
    let advice = eth0["advice"].as_str().unwrap_or_default();
    ensure!(advice.contains("flyoverd of root"), "{eth0}");
    ensure!(!user.place().exists() && user.daemons().is_empty());
    let program = user.attached(HERE)?;
    let text = user.flyover(HERE, "check").run(LIMIT)?.stdout;
    ensure!(text.contains("this user's own, answers on"), "{text}");
    ensure!(text.contains("can use the local path"), "{text}");
    end(vec![program])?;
    user.ensure_gone()
}
