//! Servers that several tests, the demonstration and the benchmarks start the same way.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::process::geteuid;

use crate::cmd::Proc;
use crate::lab::{Host, Lab};
use crate::procfs::Proto;

/// Port of [`redis`].
pub const REDIS_PORT: u16 = 6379;
/// Port of [`nginx`].
pub const NGINX_PORT: u16 = 80;

/// Port of [`postgres`].
pub const POSTGRES_PORT: u16 = 5432;
/// Port of [`memcached`], TCP and UDP.
pub const MEMCACHED_PORT: u16 = 11211;

const POSTGRES_LIMIT: Duration = Duration::from_secs(40);

/// redis-server on all addresses, which keeps nothing on disk unless it is asked to.
pub fn redis(lab: &Lab) -> Result<Proc> {
    let mut server = lab
        .cmd(Host::Server, "redis-server")
        .args("--bind 0.0.0.0 :: --protected-mode no --appendonly no --daemonize no")
        .args(&format!("--port {}", lab.port(REDIS_PORT)))
        .arg("--save")
        .arg("")
        .arg("--dir")
        .arg(lab.directory())
        .spawn()?;
    lab.wait_for_port(Proto::Tcp, lab.port(REDIS_PORT), &mut server)?;
    Ok(server)
}

/// nginx with two workers, of another user where root starts it (as distributions configure it), on port 80 of both
/// families. It serves [`www`], which holds an `index.html` of 1 KiB, and takes uploads below
/// `/upload/`.
pub fn nginx(lab: &Lab) -> Result<Proc> {
    let path = nginx_configuration(lab, "daemon off;")?;
    let mut server = lab
        .cmd(Host::Server, "nginx")
        .args("-e stderr -c")
        .arg(&path)
        .spawn()?;
    lab.wait_for_port(Proto::Tcp, lab.port(NGINX_PORT), &mut server)?;
    Ok(server)
}

/// The configuration of [`nginx`] with directives before it; the process id will be in [`nginx_pid`].
pub fn nginx_configuration(lab: &Lab, directives: &str) -> Result<PathBuf> {
    let directory = lab.directory().display();
    let www = www(lab);
    fs::create_dir_all(www.join("upload"))?;
    fs::set_permissions(www.join("upload"), fs::Permissions::from_mode(0o777))?;
    fs::write(www.join("index.html"), "x".repeat(1024))?;
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("  {kind}_temp_path {directory}/{kind};\n"))
        .concat();
    let (user, port) = match geteuid().is_root() {
        true => ("user www-data;\n", lab.port(NGINX_PORT)),
        false => ("", lab.port(NGINX_PORT)),
    };
    let configuration = format!(
        "{directives}\nworker_processes 2;\n{user}pid {};\n\
         error_log stderr;\nevents {{ worker_connections 2048; }}\nhttp {{\n{temporary}\
         \x20 access_log off;\n  sendfile on;\n  keepalive_requests 1000000;\n\
         \x20 client_max_body_size 200m;\n  server {{\n    listen {port};\n    listen [::]:{port};\n\
         \x20   root {};\n    location /upload/ {{ dav_methods PUT; }}\n  }}\n}}\n",
        nginx_pid(lab).display(),
        www.display()
    );
    let path = lab.directory().join("nginx.conf");
    fs::write(&path, configuration)?;
    Ok(path)
}

/// Where [`nginx`] writes its process id.
pub fn nginx_pid(lab: &Lab) -> PathBuf {
    lab.directory().join("nginx.pid")
}

/// The directory that [`nginx`] serves.
pub fn www(lab: &Lab) -> PathBuf {
    lab.directory().join("www")
}

/// Where Debian puts the programs of the newest PostgreSQL.
pub fn postgres_programs() -> Result<PathBuf> {
    let mut found: Vec<PathBuf> = fs::read_dir("/usr/lib/postgresql")
        .context("no PostgreSQL")?
        .flatten()
        .map(|entry| entry.path().join("bin"))
        .collect();
    found.sort();
    found.pop().context("no PostgreSQL")
}

/// The numbers of a user in /etc/passwd.
fn user(name: &str) -> Result<(u32, u32)> {
    let passwd = fs::read_to_string("/etc/passwd")?;
    let line = passwd
        .lines()
        .find(|line| line.starts_with(&format!("{name}:")))
        .with_context(|| format!("no user {name}"))?;
    let mut numbers = line.split(':').skip(2);
    let mut next = || numbers.next().context("passwd")?.parse().context("passwd");
    Ok((next()?, next()?))
}

/// A cluster that belongs to whoever runs this; root's belongs to `postgres`, because PostgreSQL refuses to run as root.
pub fn postgres(lab: &Lab) -> Result<Proc> {
    let programs = postgres_programs()?;
    let data = lab.directory().join("pg");
    fs::create_dir_all(&data)?;
    fs::set_permissions(&data, fs::Permissions::from_mode(0o700))?;
    let mut as_user = String::new();
    if geteuid().is_root() {
        let (uid, gid) = user("postgres")?;
        chown(&data, Some(uid), Some(gid))?;
        as_user = format!("setpriv --reuid={uid} --regid={gid} --clear-groups ");
    }
    let script = format!("exec {as_user}\"$@\"");
    lab.plain(Host::Server, "/bin/sh")
        .args("-c")
        .arg(&script)
        .arg("sh")
        .arg(programs.join("initdb"))
        .args("--auth=trust --no-sync -U postgres -D")
        .arg(&data)
        .run(POSTGRES_LIMIT)?;
    fs::write(
        data.join("pg_hba.conf"),
        "host all all 0.0.0.0/0 trust\nhost all all ::/0 trust\nlocal all all trust\n",
    )?;
    let port = lab.port(POSTGRES_PORT);
    let mut server = lab
        .cmd(Host::Server, "/bin/sh")
        .args("-c")
        .arg(&script)
        .arg("sh")
        .arg(programs.join("postgres"))
        .arg("-D")
        .arg(&data)
        .args("-c listen_addresses=* -c unix_socket_directories= -c fsync=off -p")
        .arg(port.to_string())
        .spawn()?;
    lab.wait_for_port(Proto::Tcp, port, &mut server)?;
    Ok(server)
}

/// memcached with two threads.
pub fn memcached(lab: &Lab) -> Result<Proc> {
    let port = lab.port(MEMCACHED_PORT);
    let user = if geteuid().is_root() { "-u root" } else { "" };
    let mut server = lab
        .cmd(Host::Server, "memcached")
        .args(&format!(
            "{user} -l 0.0.0.0 -p {port} -U {port} -m 128 -t 2"
        ))
        .spawn()?;
    lab.wait_for_port(Proto::Tcp, port, &mut server)?;
    Ok(server)
}
