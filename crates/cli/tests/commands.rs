//! The program itself, in a directory of its own, with a daemon made of one thread.

use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use flyover_config::{Options as _, StackOpts};
use flyover_core::stack::{layout::Layout, state::StackState};
use flyover_core::{Kind, LAYOUT_HASH, Stack, TcpState, layout_len, time::Instant};
use flyover_proto::{Deadline, List, MAX_MESSAGE, Packet, RefusedCode, Reply, Request, Text};
use flyover_shm::{Arena, Idx, Map, sealed_memfd};
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept, bind, listen, socket_with,
};

const PATIENCE: Duration = Duration::from_secs(5);

/// A directory with a copy of the program, so that what is beside it is this test's choice.
struct Place(PathBuf);

impl Place {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("flyover-cli-{}-{n}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        copy(
            Path::new(env!("CARGO_BIN_EXE_flyover")),
            &dir.join("flyover"),
        );
        Self(dir)
    }

    /// Any library will do: what counts is that it is loaded.
    fn with_library(self) -> Self {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let path = |line: &str| line.split_whitespace().last().map(str::to_owned);
        let loaded = maps
            .lines()
            .filter_map(path)
            .find(|p| p.contains("libgcc_s"))
            .unwrap();
        std::fs::copy(loaded, self.0.join("libflyover.so")).unwrap();
        self
    }

    fn socket(&self) -> PathBuf {
        self.0.join("sock/flyoverd.sock")
    }

    fn flyover(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(self.0.join("flyover"));
        command
            .args(args)
            .env_remove("LD_PRELOAD")
            .env("FLYOVER_SOCKET", self.socket());
        command
    }

    fn listener(&self) -> OwnedFd {
        std::fs::create_dir_all(self.socket().parent().unwrap()).unwrap();
        let fd = socket_with(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        );
        let fd = fd.unwrap();
        bind(&fd, &SocketAddrUnix::new(self.socket()).unwrap()).unwrap();
        listen(&fd, 8).unwrap();
        fd
    }

    /// Answers every request by `answer`; the thread ends with the test.
    fn daemon(&self, answer: fn(&Path, &Request) -> (Reply, Option<OwnedFd>)) {
        let listener = self.listener();
        let place = self.0.clone();
        std::thread::spawn(move || {
            while let Ok(client) = accept(&listener) {
                let mut buffer = vec![0; MAX_MESSAGE];
                let mut next = || match flyover_proto::recv(
                    client.as_fd(),
                    &mut buffer,
                    Deadline::after(PATIENCE),
                ) {
                    Ok(Packet::Message(len, _)) => Some(Request::decode(&buffer[..len]).unwrap()),
                    _ => None,
                };
                while let Some((seq, request)) = next() {
                    let (reply, fd) = answer(&place, &request);
                    let mut out = vec![0; MAX_MESSAGE];
                    let len = reply.encode(seq, &mut out).unwrap();
                    let fds: Vec<_> = fd.iter().map(|fd| fd.as_fd()).collect();
                    let deadline = Deadline::after(PATIENCE);
                    flyover_proto::send(client.as_fd(), &out[..len], &fds, deadline).unwrap();
                }
            }
        });
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _: std::io::Result<()> = std::fs::remove_dir_all(&self.0);
    }
}

/// Copies a file that will be executed. In another process: a child that another test forks at the
/// wrong moment would keep a descriptor of ours that writes to it (`ETXTBSY`).
fn copy(from: &Path, to: &Path) {
    assert!(
        Command::new("cp")
            .args([from, to])
            .status()
            .unwrap()
            .success()
    );
}

fn out(o: &Output) -> String {
    String::from_utf8_lossy(&o.stdout).into_owned()
}

fn err(o: &Output) -> String {
    String::from_utf8_lossy(&o.stderr).into_owned()
}

/// Stack options that need little memory.
fn small() -> StackOpts {
    let mut opts = StackOpts::DEFAULT;
    for (name, text) in [
        ("max_sockets", "64"),
        ("buffers", "512"),
        ("max_items", "64"),
    ] {
        opts.set(name, text).unwrap();
    }
    opts
}

/// The memory of a stack with one listener on port 80.
fn memory() -> OwnedFd {
    let opts = small();
    let fd = sealed_memfd("test", layout_len(&opts)).unwrap();
    let map = Map::rw(&fd, layout_len(&opts) as usize).unwrap();
    let stack = Stack::new(map.region(), &opts).unwrap();
    stack.init(Instant(1), [1, 2, 3, 4]);
    // As if four slots had been taken once.
    let at = Layout::new(&opts).state;
    let root: Arena<'_, StackState> = Arena::new(map.region(), at, 1).unwrap();
    root.at(Idx::new(0))
        .sock_slots
        .fresh
        .store(4, Ordering::Release);
    let sock = stack.sock(Idx::new(3));
    sock.set_local("0.0.0.0:80".parse().unwrap());
    sock.state.store(TcpState::Listen as u32, Ordering::Relaxed);
    sock.kind.store(Kind::Tcp as u32, Ordering::Release);
    fd
}

fn whole(text: &str) -> Reply {
    Reply::Text {
        more: false,
        text: Text::new(text),
    }
}

/// A daemon with one stack in this namespace, and one in another.
fn answer(_: &Path, request: &Request) -> (Reply, Option<OwnedFd>) {
    let netns = std::fs::read_link("/proc/self/ns/net").unwrap();
    let ps = format!(
        r#"{{"stacks":[{{"id":1,"name":"default","state":"live","netns":"{}",
        "vnics":[{{"slot":0,"kind":"packet","interface":"eth0"}}],
        "processes":[{{"pid":99,"command":"evil\u001b[31m"}}]}},
        {{"id":2,"name":"far","state":"live","netns":"net:[1]"}}]}}"#,
        netns.display()
    );
    match request {
        Request::Hello { .. } => (
            Reply::Welcome {
                pid: 1,
                layout_hash: LAYOUT_HASH,
            },
            None,
        ),
        Request::Ps {} => (whole(&ps), None),
        Request::Check {} => (whole(r#"{"interfaces":[]}"#), None),
        Request::StackFd { .. } => {
            let opts = small();
            let info = Reply::StackInfo {
                stack_len: layout_len(&opts),
                opts: List::new(opts.to_words()),
            };
            (info, Some(memory()))
        }
        _ => (refusal("not in this test"), None),
    }
}

fn refusal(text: &str) -> Reply {
    Reply::Refused {
        code: RefusedCode::Layout,
        text: Text::new(text),
    }
}

#[test]
fn without_library_programs_run_all_the_same() {
    let place = Place::new();
    let o = place.flyover(&["run", "sh", "-c", "echo $LD_PRELOAD-$FLYOVER_STACK; exit 7"]);
    assert_eq!((o.status.code(), out(&o).as_str()), (Some(7), "-\n"));
    let said = err(&o);
    assert!(
        said.starts_with("flyover: running on the kernel path: libflyover.so"),
        "{said}"
    );
    assert_eq!(said.lines().count(), 1, "{said}");
    let quiet = place
        .command(&["run", "true"])
        .env("FLYOVER_LOG", "off")
        .output()
        .unwrap();
    assert_eq!((quiet.status.code(), err(&quiet).as_str()), (Some(0), ""));
}

#[test]
fn statuses_of_shells() {
    let place = Place::new();
    let o = place.flyover(&["run", "no-such-program"]);
    assert_eq!(o.status.code(), Some(127));
    assert_eq!(
        err(&o),
        "flyover run: no-such-program: No such file or directory\n"
    );
    assert_eq!(
        place.flyover(&["run", "/etc/passwd"]).status.code(),
        Some(126)
    );
    for bad in [
        &["run"][..],
        &["run", "--spin", "x", "true"],
        &["run", "--nonsense", "true"],
    ] {
        let o = place.flyover(bad);
        assert_eq!(o.status.code(), Some(125), "{bad:?}");
        assert!(
            out(&o).is_empty() && err(&o).lines().count() == 1,
            "{}",
            err(&o)
        );
    }
    assert_eq!(place.flyover(&[]).status.code(), Some(2));
    assert_eq!(place.flyover(&["nonsense"]).status.code(), Some(2));
    assert_eq!(place.flyover(&["ss", "--nonsense"]).status.code(), Some(2));
}

#[test]
fn bad_variables_are_told_and_harmless() {
    let place = Place::new();
    let mut command = place.command(&["run", "--no-accelerate", "true"]);
    let o = command
        .env("FLYOVER_SYNACK_RETRIES", "300")
        .env("FLYOVER_SPINN", "1")
        .output()
        .unwrap();
    assert_eq!(o.status.code(), Some(0));
    assert_eq!(
        err(&o),
        "flyover: FLYOVER_SYNACK_RETRIES=300: out of range (takes 0 to 255); ignored\n\
         flyover: there is no option FLYOVER_SPINN; ignored\n"
    );
}

#[test]
fn with_a_daemon_the_library_is_preloaded() {
    let place = Place::new().with_library();
    place.daemon(answer);
    let script = "echo $LD_PRELOAD $FLYOVER_STACK $FLYOVER_SPIN $FLYOVER_INTERFACE";
    let mut command = place.command(&[
        "run",
        "--stack",
        "web",
        "--spin=5",
        "--interface",
        "a",
        "--interface",
        "b",
        "--",
        "sh",
        "-c",
        script,
    ]);
    let o = command.env("LD_PRELOAD", "").output().unwrap();
    let library = place.0.canonicalize().unwrap().join("libflyover.so");
    assert_eq!(
        out(&o),
        format!("{} web 5 a,b\n", library.display()),
        "{}",
        err(&o)
    );
    assert_eq!((o.status.code(), err(&o).as_str()), (Some(0), ""));
}

#[test]
fn another_build_of_the_daemon_is_no_obstacle() {
    let place = Place::new().with_library();
    place.daemon(|_, _| (refusal("another build"), None));
    let o = place.flyover(&["run", "sh", "-c", "echo ran $LD_PRELOAD"]);
    assert_eq!((o.status.code(), out(&o).as_str()), (Some(0), "ran\n"));
    assert!(err(&o).contains("another build; restart it"), "{}", err(&o));
}

#[test]
fn a_daemon_that_cannot_start_says_why() {
    let place = Place::new().with_library();
    let script = place.0.join("script");
    std::fs::write(&script, "#!/bin/sh\necho no BPF today >&2\nexit 1\n").unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    copy(&script, &place.0.join("flyoverd"));
    let o = place.flyover(&["run", "echo", "ran"]);
    assert_eq!((o.status.code(), out(&o).as_str()), (Some(0), "ran\n"));
    let expected = if rustix::process::geteuid().is_root() {
        "could not be started: it ended: no BPF today"
    } else {
        "start it as root"
    };
    assert!(err(&o).contains(expected), "{}", err(&o));
}

#[test]
fn stacks_and_sockets() {
    let place = Place::new();
    place.daemon(answer);
    let o = place.flyover(&["ps"]);
    assert!(
        out(&o).contains("stack 1 (default)") && out(&o).contains("packet eth0"),
        "{}",
        out(&o)
    );
    assert!(out(&o).contains("evil?[31m"), "{}", out(&o));

    let o = place.flyover(&["ss", "-tln"]);
    let text = out(&o);
    let lines: Vec<Vec<&str>> = text
        .lines()
        .map(|l| l.split_whitespace().collect())
        .collect();
    assert_eq!(lines.len(), 2, "{text} {}", err(&o));
    assert_eq!(
        lines[1],
        [
            "tcp",
            "LISTEN",
            "0",
            "0",
            "0.0.0.0:80",
            "0.0.0.0:*",
            "packet"
        ]
    );
    assert_eq!(out(&place.flyover(&["ss", "-u"])).lines().count(), 1);
    let all = out(&place.flyover(&["ss", "--all-namespaces"]));
    assert_eq!(all.lines().count(), 3, "{all}");

    let json: serde_json::Value =
        serde_json::from_str(&out(&place.flyover(&["ss", "--json"]))).unwrap();
    assert_eq!(json["sockets"][0]["path"], "packet");

    let dump = out(&place.flyover(&["stackdump", "default"]));
    assert!(dump.contains("tcp LISTEN 0.0.0.0:80"), "{dump}");
    assert_eq!(
        place.flyover(&["stackdump", "nowhere"]).status.code(),
        Some(1)
    );
}

#[test]
fn without_daemon_there_is_nothing_to_see() {
    let place = Place::new();
    let o = place.flyover(&["ps"]);
    assert_eq!(
        (o.status.code(), out(&o).as_str()),
        (Some(0), "no stacks\n")
    );
    assert_eq!(err(&o), "flyover: flyoverd is not running\n");
    assert_eq!(
        out(&place.flyover(&["ss", "--json"]))
            .split_whitespace()
            .collect::<String>(),
        r#"{"sockets":[]}"#
    );
    assert_eq!(place.flyover(&["daemon", "status"]).status.code(), Some(3));
    assert_eq!(place.flyover(&["daemon", "stop"]).status.code(), Some(0));
}

#[test]
fn check_and_help() {
    let place = Place::new();
    let o = place.flyover(&["check", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&out(&o)).unwrap();
    let lo = json["interfaces"]
        .as_array()
        .unwrap()
        .iter()
        .find(|i| i["name"] == "lo")
        .unwrap();
    assert!(lo["vnic"].is_null() && lo["why"].as_str().unwrap().contains("loopback"));
    assert!(out(&place.flyover(&["check"])).contains("\nlo: loopback"));
    for command in ["run", "check", "ps", "ss", "stackdump", "daemon"] {
        let o = place.flyover(&[command, "--help"]);
        assert!(
            o.status.success() && out(&o).contains(&format!("flyover {command}")),
            "{command}"
        );
    }
    assert!(out(&place.flyover(&["run", "--help"])).contains("--max-sockets N"));
    assert!(out(&place.flyover(&["options", "--markdown"])).starts_with("# Options\n"));
    // A reader that has seen enough is no failure.
    let script = format!("{} options | head -1", place.0.join("flyover").display());
    let o = Command::new("bash")
        .args(["-o", "pipefail", "-c", &script])
        .output()
        .unwrap();
    assert!(o.status.success() && err(&o).is_empty(), "{}", err(&o));
}
