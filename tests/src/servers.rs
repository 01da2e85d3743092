//! Servers that several tests, the demonstration and the benchmarks start the same way.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use anyhow::Result;

use crate::cmd::Proc;
use crate::lab::{Host, Lab};
use crate::procfs::Proto;

/// Port of [`redis`].
pub const REDIS_PORT: u16 = 6379;
/// Port of [`nginx`].
pub const NGINX_PORT: u16 = 80;

/// redis-server on all addresses, which keeps nothing on disk unless it is asked to.
pub fn redis(lab: &Lab) -> Result<Proc> {
    let mut server = lab
        .cmd(Host::Server, "redis-server")
        .args("--bind 0.0.0.0 :: --protected-mode no --appendonly no --daemonize no")
        .args(&format!("--port {REDIS_PORT}"))
        .arg("--save")
        .arg("")
        .arg("--dir")
        .arg(lab.directory())
        .spawn()?;
    lab.wait_for_port(Proto::Tcp, REDIS_PORT, &mut server)?;
    Ok(server)
}

/// nginx with two workers of another user (as distributions configure it), on port 80 of both
/// families. It serves [`www`], which holds an `index.html` of 1 KiB, and takes uploads below
/// `/upload/`.
pub fn nginx(lab: &Lab) -> Result<Proc> {
    let path = nginx_configuration(lab, "daemon off;")?;
    let mut server = lab
        .cmd(Host::Server, "nginx")
        .args("-e stderr -c")
        .arg(&path)
        .spawn()?;
    lab.wait_for_port(Proto::Tcp, NGINX_PORT, &mut server)?;
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
    let configuration = format!(
        "{directives}\nworker_processes 2;\nuser www-data;\npid {};\n\
         error_log stderr;\nevents {{ worker_connections 2048; }}\nhttp {{\n{temporary}\
         \x20 access_log off;\n  sendfile on;\n  keepalive_requests 1000000;\n\
         \x20 client_max_body_size 200m;\n  server {{\n    listen 80;\n    listen [::]:80;\n\
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
