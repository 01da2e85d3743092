//! Where an ordinary user's daemon is: what other users may have put there before, who is let in, and when root's daemon is
//! used instead.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use flyover_e2e::cmd::Output;
use flyover_e2e::lab::{Host, Lab, Side, ensure_equal};
use flyover_e2e::runner::Case;
use flyover_e2e::user::{LIMIT, User, ensure_quiet};

use super::on_pair;

const HERE: Host = Host::Server;
/// Somebody else.
const OTHER: u32 = 65_533;

pub fn cases(cases: &mut Vec<Case>) {
    let mut add = |name: &str, work: fn(&Lab) -> Result<()>| {
        cases.push(on_pair(name, Side::Neither, work).only_flyover());
    };
    add("user.planted", planted);
    add("user.open-runtime-directory", open_runtime_directory);
    add("user.other-users", other_users);
    add("user.root-s-daemon", root_s_daemon);
    add("user.silent-root-s-daemon", silent_root_s_daemon);
}

/// Directories for a user without a runtime directory; what the test put there goes with the value.
struct Shared(Vec<PathBuf>);

impl Shared {
    fn of(uid: u32) -> Self {
        let bases = ["/tmp", "/var/tmp", "/dev/shm"];
        Self(
            bases
                .map(|base| Path::new(base).join(format!("flyover-{uid}")))
                .into(),
        )
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        for path in &self.0 {
            let removed = fs::remove_file(path).or_else(|_| fs::remove_dir_all(path));
            drop(removed);
        }
    }
}

/// A directory of somebody else, with a socket in it that answers to anybody.
fn trap(path: &Path, name: &str) -> Result<UnixListener> {
    fs::create_dir(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o777))?;
    let listener = UnixListener::bind(path.join(name))?;
    chown(path, Some(OTHER), Some(OTHER))?;
    Ok(listener)
}

/// The place is taken by others, in one way after the other: it is not used, the next one is; without any, the program
/// runs all the same and says why on one line.
fn planted(lab: &Lab) -> Result<()> {
    let user = User::homeless(lab);
    let places = Shared::of(user.uid);
    let [tmp, var, shm] = &places.0[..] else {
        anyhow::bail!("three places");
    };
    // Nobody's: it is made, and goes with the daemon.
    let program = user.attached(HERE)?;
    let mode = fs::metadata(tmp)?.permissions().mode() & 0o7777;
    ensure_equal("mode", mode, 0o700)?;
    ensure_quiet(program.finish(LIMIT)?)?;
    user.ensure_gone()?;
    ensure!(!tmp.exists(), "{} is left", tmp.display());

    let listener = trap(tmp, "net-1.sock")?;
    let program = user.attached(HERE)?;
    ensure!(var.exists(), "the next place is not used");
    ensure_equal("files in the trap", fs::read_dir(tmp)?.count(), 1)?;
    ensure_quiet(program.finish(LIMIT)?)?;
    user.ensure_gone()?;
    drop(listener);
    fs::remove_dir_all(tmp)?;

    // A link to a directory that is the user's alone, but of another's choosing.
    let target = lab.directory().join("target");
    fs::create_dir(&target)?;
    fs::set_permissions(&target, fs::Permissions::from_mode(0o700))?;
    chown(&target, Some(user.uid), Some(user.uid))?;
    symlink(&target, tmp)?;
    // The user's own, but open.
    fs::create_dir(var)?;
    chown(var, Some(user.uid), Some(user.uid))?;
    let program = user.attached(HERE)?;
    ensure!(shm.exists(), "the last place is not used");
    ensure_equal("files behind the link", fs::read_dir(&target)?.count(), 0)?;
    ensure_equal("files in the open one", fs::read_dir(var)?.count(), 0)?;
    ensure_quiet(program.finish(LIMIT)?)?;
    user.ensure_gone()?;

    fs::write(shm, "")?;
    let done = user.attacher(HERE).run(LIMIT)?;
    ensure!(done.stdout.trim().parse::<u16>().is_ok(), "{}", done.stdout);
    let said = done.stderr.trim();
    let reasons = [
        "kernel path",
        "directory of this user alone",
        "is open to others",
    ];
    let all = reasons.iter().all(|reason| said.contains(reason));
    ensure!(said.lines().count() == 1 && all, "{said}");
    ensure_equal("daemons", user.daemons().len(), 0)
}

/// A runtime directory that others may enter is none.
fn open_runtime_directory(lab: &Lab) -> Result<()> {
    let user = User::new(lab)?;
    let runtime = user.place();
    let runtime = runtime.parent().context("no runtime directory")?;
    fs::set_permissions(runtime, fs::Permissions::from_mode(0o755))?;
    let places = Shared::of(user.uid);
    let program = user.attached(HERE)?;
    ensure!(!user.place().exists() && places.0[0].exists());
    ensure_quiet(program.finish(LIMIT)?)?;
    user.ensure_gone()
}

/// Nobody else is served, not even whom permissions do not stop.
fn other_users(lab: &Lab) -> Result<()> {
    let user = User::new(lab)?;
    let program = user.attached(HERE)?;
    let socket = user.socket()?;
    let ask = |words: &str| {
        let wrapper = words.split_whitespace().map(Into::into).collect();
        let flyover = lab.bin().join("flyover");
        let cmd = lab.wrapped(HERE, wrapper, flyover).args("ps");
        cmd.env("FLYOVER_SOCKET", &socket).output(LIMIT)
    };
    let root = ask("")?;
    ensure!(
        !root.status.success() && root.stderr.contains("another user's"),
        "{}",
        root.stderr
    );
    let other = ask(&format!(
        "setpriv --reuid={OTHER} --regid={OTHER} --clear-groups"
    ))?;
    ensure!(
        !other.status.success() && other.stderr.contains("no permission"),
        "{}",
        other.stderr
    );
    ensure_quiet(program.finish(LIMIT)?)?;
    user.ensure_gone()
}

/// Runs a script as root in a mount namespace of its own, whose `/run/flyover` is that of this test alone. In it, `$run` is
/// an accelerated program of the user that ends at once, `$place` the directory of the user's own daemon.
fn script(lab: &Lab, user: &User<'_>, lines: &str) -> Result<Output> {
    let (bin, uid, place) = (lab.bin().display(), user.uid, user.place());
    let script = flyover_e2e::runner::scripts().join("user_attach.py");
    let runtime = place.parent().context("no runtime directory")?.display();
    let head = format!(
        "set -e
        mount -t tmpfs tmpfs /run
        unset FLYOVER_SOCKET
        export XDG_RUNTIME_DIR={runtime} FLYOVER_IDLE_EXIT_S=1 FLYOVER_LOG=info
        flyover={bin}/flyover place={place} server={script}
        as_user=\"setpriv --reuid={uid} --regid={uid} --clear-groups\"
        run=\"$as_user $flyover run -- /usr/bin/python3 $server\"
        {lines}",
        place = place.display(),
        script = script.display(),
    );
    let wrapper = ["unshare", "-m", "sh", "-c"].map(Into::into).into();
    lab.wrapped(HERE, wrapper, head).run(LIMIT)
}

/// Root's daemon is used when it may be; the user's own when it may not.
fn root_s_daemon(lab: &Lab) -> Result<()> {
    let user = User::new(lab)?;
    let lines = "$flyover daemon start
        $run </dev/null
        test ! -e $place || echo another daemon
        chmod 700 /run/flyover/flyoverd.sock
        $run </dev/null
        test -e $place || echo no own daemon
        $flyover daemon stop";
    let done = script(lab, &user, lines)?;
    let lines: Vec<&str> = done.stdout.lines().collect();
    ensure!(lines.len() == 4, "{}{}", done.stdout, done.stderr);
    ensure!(
        lines[0] == "flyoverd started" && lines[3] == "flyoverd stopped",
        "{lines:?}"
    );
    ensure!(done.stderr.is_empty(), "{}", done.stderr);
    user.ensure_gone()
}

/// Root's daemon is there and does not answer: one line says so, and the user's own is used.
fn silent_root_s_daemon(lab: &Lab) -> Result<()> {
    let user = User::new(lab)?;
    let lines = "mkdir /run/flyover
        /usr/bin/python3 -c '
import os, socket, time
s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
s.bind(\"/run/flyover/flyoverd.sock\")
os.chmod(\"/run/flyover/flyoverd.sock\", 0o666)
s.listen()
print(\"listening\", flush=True)
time.sleep(60)' >/run/said &
        until grep -q listening /run/said; do sleep 0.05; done
        $run </dev/null
        test -e $place || echo no own daemon
        kill $!";
    let done = script(lab, &user, lines)?;
    ensure!(done.stdout.trim().parse::<u16>().is_ok(), "{}", done.stdout);
    let said = done.stderr.trim();
    let all = said.contains("does not answer") && said.contains("this user's own");
    ensure!(said.lines().count() == 1 && all, "{said}");
    user.ensure_gone()
}
