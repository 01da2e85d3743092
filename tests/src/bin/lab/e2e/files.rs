//! Programs that move files: wget, rsync, ssh and scp, socat. What arrives is compared by hash.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use flyover_e2e::cmd::Proc;
use flyover_e2e::lab::{Host, Lab, SERVER, SERVER6, Side, ensure_equal, wait_until};
use flyover_e2e::pattern::{sha256, write_file};
use flyover_e2e::procfs::Proto;
use flyover_e2e::runner::Case;
use flyover_e2e::servers::{nginx, www};

use super::{each_side, on_pair};

const LIMIT: Duration = Duration::from_secs(30);
const BYTES: usize = 20_000_000;

pub fn cases(cases: &mut Vec<Case>) {
    each_side(cases, "wget.files", wget);
    each_side(cases, "rsync.daemon", rsync);
    each_side(cases, "socat.streams", socat);
    cases.push(on_pair("ssh.scp", Side::Client, ssh));
    cases.push(on_pair("ssh.sandbox", Side::Server, ssh_left_to_the_kernel).only_flyover());
}

fn file(lab: &Lab, bytes: usize) -> Result<(PathBuf, String)> {
    let path = lab.directory().join("file");
    write_file(&path, bytes, 7)?;
    let sum = sha256(&path)?;
    Ok((path, sum))
}

/// Two families, one connection for many files, and a download that is continued.
fn wget(lab: &Lab) -> Result<()> {
    let server = nginx(lab)?;
    let watch = lab.watch_kernel()?;
    let file = www(lab).join("big");
    write_file(&file, BYTES, 7)?;
    let sum = sha256(&file)?;
    let copy = lab.directory().join("copy");
    for address in [SERVER.to_string(), format!("[{SERVER6}]")] {
        lab.cmd(Host::Client, "wget")
            .args("-q -O")
            .arg(&copy)
            .args(&format!("http://{address}/big"))
            .run(LIMIT)?;
        ensure_equal("hash of the download", sha256(&copy)?, sum.clone())?;
    }
    let part = fs::File::options().write(true).open(&copy)?;
    part.set_len(BYTES as u64 / 3)?;
    lab.cmd(Host::Client, "wget")
        .args("-q -c -O")
        .arg(&copy)
        .args(&format!("http://{SERVER}/big"))
        .run(LIMIT)?;
    ensure_equal("hash of the continued download", sha256(&copy)?, sum)?;
    watch.ensure_tcp_bypassed()?;
    server.stop(LIMIT)?.success().map(|_| ())
}

/// A tree there and back through rsync's own daemon, which forks for each client.
fn rsync(lab: &Lab) -> Result<()> {
    let directory = lab.directory();
    let tree = directory.join("tree");
    for number in 0..20 {
        let below = tree.join(format!("d{}", number % 4));
        fs::create_dir_all(&below)?;
        write_file(
            &below.join(format!("f{number}")),
            number * 60_000,
            number as u64,
        )?;
    }
    let stored = directory.join("stored");
    fs::create_dir_all(&stored)?;
    let configuration = directory.join("rsyncd.conf");
    fs::write(
        &configuration,
        format!(
            "uid = 0\ngid = 0\nuse chroot = no\n[store]\n  path = {}\n  read only = no\n",
            stored.display()
        ),
    )?;
    let mut server = lab
        .cmd(Host::Server, "rsync")
        .args("--daemon --no-detach --port 8730 --config")
        .arg(&configuration)
        .spawn()?;
    lab.wait_for_port(Proto::Tcp, 8730, &mut server)?;
    let watch = lab.watch_kernel()?;
    let remote = format!("rsync://{SERVER}:8730/store/");
    let there = |words: &str, from: String, to: String| {
        lab.cmd(Host::Client, "rsync")
            .args(words)
            .arg(from)
            .arg(to)
            .run(LIMIT)
    };
    there("-a", format!("{}/", tree.display()), remote.clone())?;
    // Again: now only differences travel.
    write_file(&tree.join("d1/f1"), 61_000, 99)?;
    there(
        "-a --checksum --delete",
        format!("{}/", tree.display()),
        remote.clone(),
    )?;
    let back = directory.join("back");
    there("-a", remote, back.display().to_string())?;
    lab.plain(Host::Client, "diff")
        .args("-r")
        .arg(&tree)
        .arg(&back)
        .run(LIMIT)?;
    watch.ensure_tcp_bypassed()?;
    server.stop(LIMIT)?;
    Ok(())
}

/// A file from socat to socat; a program behind a forking listener (`EXEC`), which reads and
/// writes the connection as its standard streams.
fn socat(lab: &Lab) -> Result<()> {
    let (path, sum) = file(lab, BYTES)?;
    let copy = lab.directory().join("copy");
    let mut server = lab
        .cmd(Host::Server, "socat")
        .args("-u TCP-LISTEN:7100,reuseaddr")
        .arg(format!("CREATE:{}", copy.display()))
        .spawn()?;
    lab.wait_for_port(Proto::Tcp, 7100, &mut server)?;
    let watch = lab.watch_kernel()?;
    lab.cmd(Host::Client, "socat")
        .args("-u")
        .arg(format!("FILE:{}", path.display()))
        .arg(format!("TCP:{SERVER}:7100"))
        .run(LIMIT)?;
    server.finish(LIMIT)?.success()?;
    ensure_equal("hash of the copy", sha256(&copy)?, sum.clone())?;

    let mut server = lab
        .cmd(Host::Server, "socat")
        .args("TCP6-LISTEN:7101,fork,reuseaddr EXEC:sha256sum,pipes")
        .spawn()?;
    lab.wait_for_port(Proto::Tcp, 7101, &mut server)?;
    for _ in 0..3 {
        let printed = lab
            .cmd(Host::Client, "socat")
            .args("-t 10 -")
            .arg(format!("TCP:[{SERVER6}]:7101"))
            .input(&path)
            .run(LIMIT)?
            .stdout;
        ensure!(printed.starts_with(&sum), "sha256sum printed {printed:?}");
    }
    drop(server);
    // The connection itself as standard input and output of the program.
    let mut server = lab
        .cmd(Host::Server, "socat")
        .args("TCP-LISTEN:7102,fork,reuseaddr EXEC:cat,nofork")
        .spawn()?;
    lab.wait_for_port(Proto::Tcp, 7102, &mut server)?;
    let (small, sum) = file(lab, 300_000)?;
    lab.cmd(Host::Client, "socat")
        .args("-t 10 -")
        .arg(format!("TCP:{SERVER}:7102"))
        .input(&small)
        .run(LIMIT)?
        .bytes()
        .and_then(|bytes| Ok(fs::write(&copy, bytes)?))?;
    ensure_equal("hash of the echo", sha256(&copy)?, sum)?;
    watch.ensure_tcp_bypassed()?;
    drop(server);
    Ok(())
}

/// Keys and an sshd of its own on port 2222.
fn sshd(lab: &Lab) -> Result<Proc> {
    let directory = lab.directory();
    for (file, kind) in [("host", "ed25519"), ("user", "ed25519")] {
        lab.plain(Host::Server, "ssh-keygen")
            .args(&format!("-q -t {kind} -N"))
            .arg("")
            .arg("-f")
            .arg(directory.join(file))
            .run(LIMIT)?;
    }
    fs::create_dir_all("/run/sshd")?;
    let configuration = directory.join("sshd_config");
    let here = directory.display();
    fs::write(
        &configuration,
        format!(
            "Port 2222\nHostKey {here}/host\nAuthorizedKeysFile {here}/user.pub\n\
             StrictModes no\nPermitRootLogin yes\nUsePAM no\nPidFile none\nUseDNS no\n\
             Subsystem sftp internal-sftp\n"
        ),
    )?;
    let mut server = lab
        .cmd(Host::Server, "/usr/sbin/sshd")
        .args("-D -e -f")
        .arg(&configuration)
        .spawn()?;
    wait_until(LIMIT, || {
        server.ensure_running()?;
        let open = flyover_e2e::procfs::listening_ports(&lab.server, Proto::Tcp)?;
        Ok(open.contains(&2222).then_some(()))
    })
    .context("waiting for sshd")?;
    Ok(server)
}

fn ssh_options(lab: &Lab) -> String {
    format!(
        "-F none -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR \
         -o BatchMode=yes -i {}/user",
        lab.directory().display()
    )
}

/// A command with its standard streams, a shell, and a file there and back.
fn ssh_session(lab: &Lab) -> Result<()> {
    let (path, sum) = file(lab, BYTES)?;
    let options = ssh_options(lab);
    let printed = lab
        .cmd(Host::Client, "ssh")
        .args(&format!("{options} -p 2222 root@{SERVER} sha256sum"))
        .input(&path)
        .run(LIMIT)?
        .stdout;
    ensure!(printed.starts_with(&sum), "sha256sum printed {printed:?}");
    // A login shell on a terminal.
    let typed = lab.directory().join("typed");
    fs::write(&typed, "tty; echo shell-$((6*7))\nexit\n")?;
    let printed = lab
        .cmd(Host::Client, "ssh")
        .args(&format!("{options} -tt -p 2222 root@{SERVER}"))
        .input(&typed)
        .run(LIMIT)?
        .stdout;
    ensure!(
        printed.contains("/dev/pts/") && printed.contains("shell-42"),
        "the shell printed {printed:?}"
    );
    let (there, back) = (lab.directory().join("there"), lab.directory().join("back"));
    let remote = format!("root@{SERVER}:{}", there.display());
    let scp = |from: String, to: String| {
        lab.cmd(Host::Client, "scp")
            .args(&format!("{options} -q -P 2222"))
            .arg(from)
            .arg(to)
            .run(LIMIT)
    };
    scp(path.display().to_string(), remote.clone())?;
    ensure_equal("hash there", sha256(&there)?, sum.clone())?;
    scp(remote, back.display().to_string())?;
    ensure_equal("hash back", sha256(&back)?, sum)
}

fn ssh(lab: &Lab) -> Result<()> {
    let server = sshd(lab)?;
    let watch = lab.watch_kernel()?;
    ssh_session(lab)?;
    watch.ensure_tcp_bypassed()?;
    drop(server);
    Ok(())
}

/// sshd puts the process that talks to strangers into a sandbox of few system calls; see
/// docs/differences.md.
fn ssh_left_to_the_kernel(lab: &Lab) -> Result<()> {
    let server = sshd(lab)?;
    ssh_session(lab)?;
    drop(server);
    Ok(())
}
