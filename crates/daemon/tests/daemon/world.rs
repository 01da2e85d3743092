//! A namespace with an interface, a daemon, and helper processes. Everything goes away with the values.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use aya::programs::{SchedClassifier, TcAttachType};
use flyover_core::LAYOUT_HASH;
use flyover_proto::{Attach, Attached, AttachedFds, Client, List, StackName, VnicPref};
use flyover_vnic::host::interface;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::Value;

static COUNT: AtomicU32 = AtomicU32::new(0);

fn unique() -> String {
    format!(
        "{}-{}",
        std::process::id(),
        COUNT.fetch_add(1, Ordering::Relaxed)
    )
}

/// Runs a command that must succeed.
pub fn sh(line: &str) -> String {
    let out = Command::new("sh").args(["-c", line]).output().unwrap();
    assert!(
        out.status.success(),
        "{line}: {}",
        String::from_utf8_lossy(&out.stderr)
    );
    String::from_utf8(out.stdout).unwrap()
}

/// Waits until `probe` gives something.
pub fn eventually<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(10) {
        if let Some(found) = probe() {
            return found;
        }
        sleep(Duration::from_millis(20));
    }
    panic!("not within 10 s: {what}");
}

/// A network namespace that the main thread is in, with the veth `v0` (10.9.0.1/24, fd09::1/64) whose other end is
/// there too.
pub struct Space {
    name: String,
}

/// The namespace that the test was started in.
pub fn home() -> &'static File {
    static HOME: OnceLock<File> = OnceLock::new();
    HOME.get_or_init(|| File::open("/proc/self/ns/net").unwrap())
}

impl Space {
    pub fn new() -> Self {
        home();
        let name = format!("flyd-{}", unique());
        sh(&format!("ip netns add {name}"));
        let space = Self { name };
        space.enter();
        sh("ip link set lo up");
        sh("ip link add v0 type veth peer name v1 && ip link set v0 up && ip link set v1 up");
        sh("ip addr add 10.9.0.1/24 dev v0 && ip addr add fd09::1/64 dev v0 nodad");
        space
    }

    pub fn enter(&self) {
        let ns = File::open(format!("/run/netns/{}", self.name)).unwrap();
        move_into_link_name_space(ns.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
    }

    /// XDP and tcx programs on the interfaces.
    pub fn programs(&self) -> usize {
        let count = |name: &str| {
            let tcx = SchedClassifier::query_tcx(name, TcAttachType::Ingress)
                .map_or(0, |(_, list)| list.len());
            let index =
                std::fs::read_to_string(format!("/proc/thread-self/net/dev_snmp6/{name}")).ok();
            let index = index.and_then(|text| text.split_whitespace().nth(1)?.parse().ok());
            let xdp = index
                .and_then(|index| interface(index).ok())
                .is_some_and(|i| i.xdp.is_some());
            tcx + usize::from(xdp)
        };
        ["v0", "v1"].into_iter().map(count).sum()
    }
}

impl Space {
    /// A cable between this namespace (`w1`, 10.9.1.2/24) and `inside` (`w0`, not addressed), which is entered.
    pub fn link_to<'s>(&'s self, inside: &'s Space) -> Outside<'s> {
        self.enter();
        sh(&format!(
            "ip link add w1 type veth peer name w0 netns {}",
            inside.name
        ));
        sh("ip addr add 10.9.1.2/24 dev w1 && ip link set w1 up");
        inside.enter();
        sh("ip link set w0 up");
        Outside {
            outside: self,
            inside,
        }
    }
}

/// The other end of a cable.
pub struct Outside<'s> {
    outside: &'s Space,
    inside: &'s Space,
}

impl Outside<'_> {
    /// Connects from there, with the kernel's stack.
    pub fn connect(&self, to: SocketAddr) -> std::io::Result<TcpStream> {
        self.outside.enter();
        let stream = TcpStream::connect_timeout(&to, Duration::from_secs(2));
        self.inside.enter();
        stream
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        let _ = move_into_link_name_space(home().as_fd(), Some(LinkNameSpaceType::Network));
        let _ = Command::new("ip")
            .args(["netns", "del", &self.name])
            .status();
    }
}

/// A running daemon.
pub struct Daemon {
    pub child: Child,
    pub path: PathBuf,
    dir: PathBuf,
}

impl Daemon {
    pub fn start() -> Self {
        Self::with(&[])
    }

    pub fn with(args: &[&str]) -> Self {
        Self::of(Path::new(env!("CARGO_BIN_EXE_flyoverd")), args)
    }

    /// A daemon of root without root's capabilities.
    pub fn unprivileged(args: &[&str]) -> Self {
        let path = Self::new_path();
        let plain = Self::command(&path);
        let mut command = Command::new("setpriv");
        command.args(["--bounding-set=-all", "--inh-caps=-all", "--"]);
        command.arg(plain.get_program()).args(plain.get_args());
        Self::run(command, path, args)
    }

    /// The daemon of another program file.
    pub fn of(program: &Path, args: &[&str]) -> Self {
        let path = Self::new_path();
        Self::run(Self::command_of(program, &path), path, args)
    }

    fn new_path() -> PathBuf {
        let dir = std::env::temp_dir().join(format!("flyd-{}", unique()));
        dir.join("s")
    }

    fn run(mut command: Command, path: PathBuf, args: &[&str]) -> Self {
        let dir = path.parent().unwrap().to_owned();
        let child = Self::started(command.args(args));
        Self { child, path, dir }
    }

    fn started(command: &mut Command) -> Child {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        // Its standard output is the descriptor that it reports to.
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        assert_eq!(line, "ready\n");
        child
    }

    /// Kills it (SIGKILL).
    pub fn die(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Another one in its place, once it is dead.
    pub fn succeed(&mut self) {
        self.child = Self::started(&mut Self::command(&self.path));
    }

    /// The note of a stack for the next daemon.
    pub fn note(&self, stack: u32) -> PathBuf {
        self.dir.join(format!("s.stacks/stack-{stack}.json"))
    }

    /// How many notes there are.
    pub fn notes(&self) -> usize {
        std::fs::read_dir(self.dir.join("s.stacks")).map_or(0, Iterator::count)
    }

    pub fn command(path: &Path) -> Command {
        Self::command_of(Path::new(env!("CARGO_BIN_EXE_flyoverd")), path)
    }

    fn command_of(program: &Path, path: &Path) -> Command {
        let mut command = Command::new(program);
        command.arg("--socket").arg(path).args(["--ready-fd", "1"]);
        let log = std::env::var("FLYD_LOG").unwrap_or_else(|_| "error".into());
        command.args(["--log", &log]);
        command
    }

    fn name(&self) -> &[u8] {
        self.path.as_os_str().as_encoded_bytes()
    }

    pub fn client(&self) -> Client {
        Client::connect(self.name(), LAYOUT_HASH).unwrap()
    }

    pub fn attach(&self, stack: StackName) -> (Client, Attached, AttachedFds) {
        self.attach_as(stack, VnicPref::Auto)
    }

    pub fn attach_as(&self, stack: StackName, vnic: VnicPref) -> (Client, Attached, AttachedFds) {
        let mut client = self.client();
        let (attached, fds) = client.attach(wish(stack, vnic)).unwrap();
        (client, attached, fds)
    }

    pub fn ps(&self) -> Value {
        serde_json::from_str(&self.client().ps().unwrap()).unwrap()
    }

    /// The row of a stack in `ps`, once it is not being changed.
    pub fn row(&self, id: u32) -> Option<Value> {
        loop {
            let ps = self.ps();
            let row = ps["stacks"]
                .as_array()
                .unwrap()
                .iter()
                .find(|s| s["id"] == id)
                .cloned()?;
            if row["state"] == "live" {
                return Some(row);
            }
        }
    }

    pub fn signal(&self, signal: &str) {
        sh(&format!("kill -{signal} {}", self.child.id()));
    }

    /// A process that attaches to the default stack as this user, and waits.
    pub fn helper(&self, uid: u32) -> Helper {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["helper", self.path.to_str().unwrap()])
            .uid(uid)
            .gid(uid);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let mut words = line.split_whitespace().map(|word| word.parse().unwrap());
        Helper {
            stack: words.next().expect("helper failed"),
            owner: words.next().unwrap(),
            child,
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// See [`Daemon::helper`].
pub struct Helper {
    pub child: Child,
    pub stack: u32,
    pub owner: u32,
}

impl Drop for Helper {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a daemon says to a process of another user.
pub fn try_hello_as(uid: u32, socket: &str) -> String {
    let mut command = Command::new(std::env::current_exe().unwrap());
    let out = command.args(["hello", socket]).uid(uid).gid(uid).output();
    String::from_utf8(out.unwrap().stdout).unwrap()
}

/// A process that stays a client of the daemon, without a connection to it.
pub fn stayer(daemon: &Daemon) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["hello", daemon.path.to_str().unwrap(), "stay"]);
    let pipes = command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = pipes.spawn().unwrap();
    let mut line = String::new();
    let out = child.stdout.take().unwrap();
    BufReader::new(out).read_line(&mut line).unwrap();
    assert_eq!(line, "welcome\n");
    child
}

/// The process of these two.
pub fn hello(args: &[String]) {
    let connected = Client::connect(args[0].as_bytes(), LAYOUT_HASH);
    let stay = args.len() > 1;
    match connected {
        Ok(mut client) => {
            if stay {
                client.stay().unwrap();
            }
            println!("welcome");
        }
        Err(e) => println!("{e}"),
    }
    if stay {
        let _ = std::io::stdin().read_line(&mut String::new());
    }
}

/// The helper process itself: ends when its standard input does.
pub fn helper(args: &[String]) {
    let mut client = Client::connect(args[0].as_bytes(), LAYOUT_HASH).unwrap();
    let (attached, _fds) = client
        .attach(wish(StackName::Default, VnicPref::Auto))
        .unwrap();
    println!("{} {}", attached.stack_id, attached.owner);
    std::io::stdout().flush().unwrap();
    let mut line = String::new();
    let _ = std::io::stdin().read_line(&mut line);
}

pub fn wish(stack: StackName, vnic: VnicPref) -> Attach {
    Attach {
        stack,
        opts: List::default(),
        interfaces: List::default(),
        vnic,
    }
}
