//! Servers that replace themselves under load, by new workers, a new program, or a new process that is sent the
//! listeners: no request fails, and the listeners stay accelerated.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use flyover_e2e::cleanup;
use flyover_e2e::cmd::Proc;
use flyover_e2e::lab::{Host, Lab, SERVER, Side, wait_until};
use flyover_e2e::procfs::{self, Proto};
use flyover_e2e::runner::{Case, scripts};
use flyover_e2e::servers::{NGINX_PORT, nginx_configuration, nginx_pid};
use flyover_e2e::tools::wrk;
use rustix::process::Signal;

use super::on_pair;

const LIMIT: Duration = Duration::from_secs(20);
const SECONDS: u32 = 3;

pub fn cases(cases: &mut Vec<Case>) {
    cases.push(on_pair("nginx.upgrade", Side::Server, nginx));
    cases.push(on_pair("haproxy.reload", Side::Server, haproxy_master));
    cases.push(on_pair("haproxy.takeover", Side::Server, haproxy_pair));
    cases.push(on_pair("gunicorn.reload", Side::Server, gunicorn));
    cases.push(on_pair("uwsgi.reload", Side::Server, uwsgi));
}

/// Does the work while clients ask without a pause, each time over a new connection: none of their requests may fail.
/// Afterwards the port must still be accelerated.
fn under_load<T: Send>(lab: &Lab, port: u16, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let url = format!("http://{SERVER}:{port}/");
    let watch = lab.watch_kernel()?;
    let done = thread::scope(|scope| {
        let load = scope.spawn(|| wrk(lab, 10, SECONDS, &url, "Connection: close"));
        thread::sleep(Duration::from_millis(500));
        let done = work();
        match load.join() {
            Ok(load) => load.and(done),
            Err(_) => bail!("the load panicked"),
        }
    })?;
    lab.ensure_accelerated(Host::Server, Proto::Tcp, port)?;
    watch.ensure_tcp_bypassed()?;
    Ok(done)
}

fn pid_in(path: &Path) -> Result<Option<u32>> {
    match fs::read_to_string(path) {
        Ok(text) if text.trim().is_empty() => Ok(None),
        Ok(text) => Ok(Some(text.trim().parse()?)),
        Err(_) => Ok(None),
    }
}

fn wait_for_end(pid: u32, what: &str) -> Result<()> {
    wait_until(LIMIT, || {
        cleanup::reap_orphans();
        Ok((!procfs::is_running(pid)).then_some(()))
    })
    .with_context(|| format!("waiting for the end of {what}"))
}

/// USR2: the master executes the new program, which inherits the listeners; WINCH ends the old workers, QUIT the old
/// master (nginx.org, "Upgrading Executable on the Fly").
fn nginx(lab: &Lab) -> Result<()> {
    let configuration = nginx_configuration(lab, "daemon on;")?;
    // By its path, which it executes again.
    lab.cmd(Host::Server, "/usr/sbin/nginx")
        .args("-c")
        .arg(&configuration)
        .run(LIMIT)?;
    if !lab.is_plain() {
        lab.wait_accelerated_listener(Host::Server, Proto::Tcp, NGINX_PORT)?;
    }
    let pid_file = nginx_pid(lab);
    let first = wait_until(LIMIT, || pid_in(&pid_file)).context("waiting for nginx")?;
    let last = under_load(lab, NGINX_PORT, || {
        let mut old = first;
        for _ in 0..2 {
            cleanup::signal(old, Signal::USR2);
            let new = wait_until(LIMIT, || Ok(pid_in(&pid_file)?.filter(|&new| new != old)))
                .context("waiting for the new nginx")?;
            wait_until(LIMIT, || {
                Ok((procfs::descendants(new).len() >= 2).then_some(()))
            })
            .context("waiting for the new workers")?;
            cleanup::signal(old, Signal::WINCH);
            thread::sleep(Duration::from_millis(100));
            cleanup::signal(old, Signal::QUIT);
            wait_for_end(old, "the old nginx")?;
            old = new;
        }
        Ok(old)
    })?;
    cleanup::signal(last, Signal::QUIT);
    wait_for_end(last, "nginx")
}

/// A configuration that answers by itself.
fn haproxy_configuration(lab: &Lab, socket: &str) -> Result<PathBuf> {
    let here = lab.directory();
    let path = here.join(format!("{socket}.cfg"));
    fs::write(
        &path,
        format!(
            "global\n  maxconn 500\n  nbthread 2\n  hard-stop-after 10s\n\
             \x20 stats socket {}/{socket} level admin expose-fd listeners\n\
             defaults\n  mode http\n  timeout connect 5s\n  timeout client 10s\n  timeout server 10s\n\
             frontend web\n  bind 0.0.0.0:8085\n\
             \x20 http-request return status 200 content-type text/plain string \"flyover\"\n",
            here.display()
        ),
    )?;
    Ok(path)
}

/// Master and worker: USR2 makes the master execute itself; the new worker gets the listeners from the old one.
fn haproxy_master(lab: &Lab) -> Result<()> {
    let configuration = haproxy_configuration(lab, "admin")?;
    let mut server = lab
        .cmd(Host::Server, "haproxy")
        .args("-W -db -f")
        .arg(&configuration)
        .spawn()?;
    lab.wait_for_port(Proto::Tcp, 8085, &mut server)?;
    let workers = |server: &Proc| procfs::descendants(server.pid());
    under_load(lab, 8085, || {
        for _ in 0..2 {
            let old = workers(&server);
            server.signal(Signal::USR2);
            wait_until(LIMIT, || {
                let now = workers(&server);
                Ok(now.iter().any(|pid| !old.contains(pid)).then_some(()))
            })
            .context("waiting for the new worker")?;
            for pid in old {
                wait_for_end(pid, "the old worker")?;
            }
            wait_until(
                LIMIT,
                || Ok(takes(server.pid(), Signal::USR2).then_some(())),
            )
            .context("waiting for the master")?;
        }
        Ok(())
    })?;
    server.ensure_running()?;
    server.stop(LIMIT)?;
    Ok(())
}

/// The signals for which the process has handlers, as the kernel prints them.
fn caught(pid: u32) -> Option<String> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("SigCgt:"))?;
    Some(line.to_owned())
}

/// Does the process have a handler for the signal, and is it not blocked? A master that starts anew ignores them for a
/// moment.
fn takes(pid: u32, signal: Signal) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let has = |name: &str| {
        let mask = status.lines().find_map(|line| line.strip_prefix(name));
        let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
        mask.is_some_and(|mask| mask >> (signal.as_raw() - 1) & 1 != 0)
    };
    has("SigCgt:") && !has("SigBlk:")
}

/// Two processes that are not related: the new one asks the old one for its listeners (`-x`), which come as
/// `SCM_RIGHTS`, and then tells it to go (`-sf`).
fn haproxy_pair(lab: &Lab) -> Result<()> {
    let start = |number: usize, words: &str| {
        let configuration = haproxy_configuration(lab, &format!("admin{number}"))?;
        lab.cmd(Host::Server, "haproxy")
            .args("-db -f")
            .arg(&configuration)
            .args(words)
            .spawn()
    };
    let mut server = start(0, "")?;
    lab.wait_for_port(Proto::Tcp, 8085, &mut server)?;
    let server = under_load(lab, 8085, || {
        for number in 1..=3 {
            let words = format!(
                "-x {}/admin{} -sf {}",
                lab.directory().display(),
                number - 1,
                server.pid()
            );
            let new = start(number, &words)?;
            server
                .finish(LIMIT)
                .with_context(|| format!("the end of the old haproxy, round {number}"))?;
            server = new;
        }
        Ok(server)
    })?;
    server.stop(LIMIT)?;
    Ok(())
}

/// HUP: new workers, the old ones finish what they are at.
fn gunicorn(lab: &Lab) -> Result<()> {
    let mut server = lab
        .cmd(Host::Server, "/usr/bin/gunicorn")
        .args("--workers 2 --bind 0.0.0.0:7631 --log-level warning --chdir")
        .arg(scripts())
        .args("wsgi_app:application")
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .spawn()?;
    reload_by_hup(lab, 7631, &mut server, 2)?;
    server.stop(LIMIT)?;
    Ok(())
}

/// HUP, once (a second one that comes too early is lost): the master executes itself and finds its listeners among the
/// inherited descriptors.
fn uwsgi(lab: &Lab) -> Result<()> {
    let mut server = lab
        .cmd(Host::Server, "uwsgi-core")
        .args(
            "--plugin python3 --http-socket 0.0.0.0:7632 --master --processes 2 --disable-logging",
        )
        .args("--die-on-term --need-app --add-header Connection:close --wsgi-file")
        .arg(scripts().join("wsgi_app.py"))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .spawn()?;
    reload_by_hup(lab, 7632, &mut server, 1)?;
    server.stop(LIMIT)?;
    Ok(())
}

/// So many times, under load; each time the workers must be others afterwards.
fn reload_by_hup(lab: &Lab, port: u16, server: &mut Proc, rounds: u32) -> Result<()> {
    lab.wait_for_port(Proto::Tcp, port, server)?;
    let workers = || procfs::descendants(server.pid());
    // A worker that was just forked has its master's handlers: a signal that comes then is lost, on the kernel, too.
    let own_handlers = |pid: &u32| caught(*pid) != caught(server.pid());
    wait_until(LIMIT, || {
        let now = workers();
        Ok((now.len() >= 2 && now.iter().all(own_handlers)).then_some(()))
    })
    .context("the first workers")?;
    under_load(lab, port, || {
        for _ in 0..rounds {
            let old = workers();
            server.signal(Signal::HUP);
            wait_until(LIMIT, || {
                let now = workers();
                let new = now.iter().filter(|pid| !old.contains(pid)).count();
                Ok((new >= 2 && now.len() == new).then_some(()))
            })
            .context("waiting for new workers")?;
        }
        Ok(())
    })?;
    server.ensure_running()
}
