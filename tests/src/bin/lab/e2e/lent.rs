//! Local ports that the daemon lends: connections from them are accelerated, and nobody else gets them, whatever becomes
//! of the daemon. And a daemon that is silent: what programs have goes on, and nothing is taken from the kernel.

use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use flyover_e2e::cmd::Proc;
use flyover_e2e::echo::serve;
use flyover_e2e::lab::{CLIENT, Host, Lab, SERVER, Side, ensure_equal, wait_until};
use flyover_e2e::procfs::Proto;
use flyover_e2e::runner::Case;
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};

use super::daemon::stacks;
use super::{on_pair, with_options};

const PORT: u16 = 7950;
const LIMIT: Duration = Duration::from_secs(20);
/// What is lent first.
const FIRST: u64 = 64;

pub fn cases(cases: &mut Vec<Case>) {
    // The client's connections end in TIME_WAIT, and its stack after them.
    let some = &["--time-wait-ms", "1000"];
    cases.push(with_options("lent.ports", Side::Client, some, ports).only_flyover());
    let at_once = &["--time-wait-ms", "1000", "--lend-after", "0"];
    cases.push(with_options("lent.at-once", Side::Client, at_once, ports).only_flyover());
    let xdp = &["--time-wait-ms", "1000", "--vnic", "xdp"];
    cases.push(with_options("lent.ports.xdp", Side::Client, xdp, ports).only_flyover());
    let private = &["--stack", "private"];
    cases.push(with_options(
        "lent.time-wait",
        Side::Client,
        private,
        time_wait,
    ));
    cases.push(on_pair("daemon.silent", Side::Client, silent).only_flyover());
}

/// `many_ports.py` on the client host.
struct Program {
    program: Proc,
    answers: usize,
}

impl Program {
    fn start(lab: &Lab) -> Result<Self> {
        let script = lab.python(Host::Client, "many_ports.py");
        let script = script.args(&format!("{SERVER} {PORT} {CLIENT}"));
        let program = script.piped().spawn()?;
        Ok(Self {
            program,
            answers: 0,
        })
    }

    fn ask(&mut self, order: &str) -> Result<()> {
        self.program.write_line(order)
    }

    /// The words of the next answer.
    fn answer(&mut self) -> Result<Vec<String>> {
        let nth = self.answers;
        self.answers += 1;
        wait_until(LIMIT, || {
            self.program.ensure_running()?;
            let said = self.program.stdout();
            let mut lines = said
                .split_inclusive('\n')
                .filter(|line| line.ends_with('\n'));
            let words = lines.nth(nth).map(|line| line.trim_end().split(' '));
            Ok(words.map(|words| words.map(str::to_owned).collect()))
        })
        .with_context(|| format!("waiting for answer {nth}"))
    }

    fn open(&mut self, count: usize) -> Result<Vec<u16>> {
        self.ask(&format!("open {count}"))?;
        let words = self.answer()?;
        let ports = words.iter().skip(1).map(|word| Ok(word.parse()?));
        ports.collect()
    }

    fn echo(&mut self) -> Result<()> {
        self.ask("echo")?;
        ensure_equal("answer", self.answer()?[0].as_str(), "echoed")
    }
}

/// Whether the kernel lets a program bind the port, one that would share it.
fn is_free(lab: &Lab, port: u16) -> Result<bool> {
    let script = format!(
        "import socket; s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); \
         s.bind(('{CLIENT}', {port}))"
    );
    let bound = lab.plain(Host::Client, "python3").arg("-c").arg(script);
    let output = bound.output(LIMIT)?;
    output.forget();
    let refused = output.stderr.contains("Address already in use");
    ensure!(output.status.success() || refused, "{}", output.stderr);
    Ok(!refused)
}

fn lent(lab: &Lab) -> Result<u64> {
    let list = stacks(lab)?;
    ensure_equal("stacks", list.len(), 1)?;
    Ok(list[0]["lent_ports"].as_u64().unwrap_or(0))
}

fn ports(lab: &Lab) -> Result<()> {
    let server = serve(lab, PORT)?;
    let watch = lab.watch_kernel()?;
    let mut program = Program::start(lab)?;
    let first = program.open(20)?;
    ensure_equal("ports lent", lent(lab)?, FIRST)?;
    let held = |what: &str| -> Result<()> {
        for port in &first[17..] {
            ensure!(!is_free(lab, *port)?, "port {port} can be bound {what}");
        }
        Ok(())
    };
    held("while it is lent")?;
    let daemon = lab.daemon().context("no daemon")?;
    daemon.kill()?;
    held("without the daemon")?;
    program.echo()?;
    // The list is known: no daemon is needed.
    let mut all = first.clone();
    all.extend(program.open(10)?);
    daemon.succeed()?;
    held("with the next daemon")?;
    // More than there are.
    all.extend(program.open(90)?);
    ensure_equal("ports lent", lent(lab)?, 2 * FIRST)?;
    program.echo()?;
    watch.ensure_tcp_bypassed()?;
    lab.ensure_accelerated(Host::Client, Proto::Tcp, PORT)?;
    all.sort_unstable();
    all.dedup();
    ensure_equal("different ports", all.len(), 120)?;
    program.ask("close")?;
    program.answer()?;
    // Closed, but lent.
    held("after the close")?;
    program.program.stop(LIMIT)?;
    wait_until(LIMIT, || Ok(is_free(lab, first[15])?.then_some(())))
        .context("waiting for the end of the lease")?;
    server.stop(LIMIT)?;
    Ok(())
}

/// Programs with a stack of their own each connect, close and end. A stack that is left with its TIME_WAIT has the
/// addresses: the next program gets another port, or is told that there is none, and does not wait for an answer that goes to
/// the stack before.
fn time_wait(lab: &Lab) -> Result<()> {
    let server = serve(lab, PORT)?;
    let sysctl = lab.plain(Host::Client, "sysctl");
    let few = "net.ipv4.ip_local_port_range=40000 40063";
    sysctl.arg("-w").arg(few).run(LIMIT)?;
    let one = "import socket, sys, time; start = time.monotonic(); s = socket.socket(); \
         s.bind(tuple(sys.argv[3:4]) + (int(sys.argv[4]),)) if len(sys.argv) > 3 else None; \
         e = s.connect_ex((sys.argv[1], int(sys.argv[2]))); \
         e or (s.sendall(b'x'), s.recv(1)); took = time.monotonic() - start; \
         print(e, s.getsockname()[1], took); assert took < 0.9, took";
    let connect = |bound: &str| -> Result<(i32, u16)> {
        let program = lab.cmd(Host::Client, "python3").arg("-c").arg(one);
        let program = program.args(&format!("{SERVER} {PORT} {bound}"));
        let said = program.run(LIMIT)?.stdout;
        let mut words = said.split_whitespace();
        let mut word = || words.next().context("no answer");
        Ok((word()?.parse()?, word()?.parse()?))
    };
    let mut last = 0;
    for _ in 0..24 {
        let (error, port) = connect("")?;
        ensure_equal("error of a connection", error, 0)?;
        last = port;
    }
    // As the kernel, which does not give a port of such a connection away either: neither does it wait.
    if !lab.is_plain() {
        let (error, _) = connect(&format!("{CLIENT} {last}"))?;
        ensure_equal(
            "error from the same port",
            error,
            Errno::ADDRNOTAVAIL.raw_os_error(),
        )?;
    }
    server.stop(LIMIT)?;
    Ok(())
}

/// The daemon is stopped for longer than a program waits for it: the program's connections go on, a new one is the
/// kernel's, and stays the kernel's when the daemon goes on.
fn silent(lab: &Lab) -> Result<()> {
    let server = serve(lab, PORT)?;
    let mut program = Program::start(lab)?;
    program.open(1)?;
    let pid = lab.daemon_pid().context("no daemon")?;
    let pid = Pid::from_raw(i32::try_from(pid)?).context("no process")?;
    for pause in [2_000, 2_010, 2_030, 2_300] {
        kill_process(pid, Signal::STOP)?;
        thread::sleep(Duration::from_millis(100));
        program.ask("port")?;
        thread::sleep(Duration::from_millis(pause));
        kill_process(pid, Signal::CONT)?;
        program.answer()?;
        thread::sleep(Duration::from_millis(300));
        program.echo()?;
        // It is not asked for a second after its silence.
        thread::sleep(Duration::from_millis(1_000));
    }
    // Longer than it takes until what has no socket counts as gone.
    thread::sleep(Duration::from_secs(3));
    program.echo()?;
    let watch = lab.watch_kernel()?;
    program.ask("port")?;
    program.answer()?;
    watch.ensure_tcp_bypassed()?;
    program.program.stop(LIMIT)?;
    server.stop(LIMIT)?;
    Ok(())
}
