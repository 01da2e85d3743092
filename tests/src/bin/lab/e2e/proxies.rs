//! HAProxy in front of nginx; nginx with every directive of its own that touches sockets; Apache
//! with a process per connection.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use flyover_e2e::cmd::Proc;
use flyover_e2e::lab::{Host, Lab, SERVER, SERVER6, Side, ensure_equal};
use flyover_e2e::pattern::{sha256, write_file};
use flyover_e2e::procfs::Proto;
use flyover_e2e::runner::Case;
use flyover_e2e::servers::{nginx, www};
use flyover_e2e::tools::wrk;

use super::{each_side, on_pair};

const LIMIT: Duration = Duration::from_secs(30);
const BIG: usize = 30_000_000;

pub fn cases(cases: &mut Vec<Case>) {
    cases.push(on_pair("haproxy.http", Side::Client, haproxy));
    cases.push(on_pair("haproxy.http", Side::Both, haproxy).only_flyover());
    each_side(cases, "nginx.sockets", directives);
    each_side(cases, "apache.prefork", apache);
}

fn download(lab: &Lab, host: Host, url: &str, sum: &str) -> Result<()> {
    let copy = lab.directory().join("copy");
    lab.cmd(host, "curl")
        .args("-s -S -f -g -o")
        .arg(&copy)
        .arg(url)
        .run(LIMIT)?;
    ensure_equal("hash of the download", sha256(&copy)?, sum.to_owned())
}

/// nginx on the server's host, HAProxy on the client's, its clients on the server's again: each
/// request crosses the wire twice.
fn haproxy(lab: &Lab) -> Result<()> {
    let web = nginx(lab)?;
    let file = www(lab).join("big");
    write_file(&file, BIG, 3)?;
    let sum = sha256(&file)?;
    let path = lab.directory().join("haproxy.cfg");
    fs::write(
        &path,
        format!(
            "global\n  maxconn 500\n  nbthread 2\ndefaults\n  timeout connect 5s\n  timeout client 20s\n\
             \x20 timeout server 20s\nfrontend http\n  mode http\n  bind 0.0.0.0:8080\n  default_backend web\n\
             backend web\n  mode http\n  server one {SERVER}:80\n\
             frontend stream\n  mode tcp\n  bind 0.0.0.0:8081\n  option splice-auto\n  default_backend raw\n\
             backend raw\n  mode tcp\n  option splice-auto\n  server one {SERVER}:80\n"
        ),
    )?;
    let mut proxy = lab
        .cmd(Host::Client, "haproxy")
        .args("-db -f")
        .arg(&path)
        .spawn()?;
    lab.wait_for_port_on(Host::Client, Proto::Tcp, 8081, &mut proxy)?;
    let watch = lab.watch_kernel()?;
    let here = flyover_e2e::lab::CLIENT;
    for port in [8080, 8081] {
        download(
            lab,
            Host::Server,
            &format!("http://{here}:{port}/big"),
            &sum,
        )?;
        let printed = lab
            .cmd(Host::Server, "wrk")
            .args(&format!("-t1 -c20 -d1s http://{here}:{port}/"))
            .run(LIMIT)?
            .stdout;
        ensure!(
            !printed.contains("Non-2xx") && !printed.contains("Socket errors"),
            "port {port}\n{printed}"
        );
    }
    watch.ensure_tcp_bypassed()?;
    proxy.stop(LIMIT)?;
    web.stop(LIMIT)?.success().map(|_| ())
}

/// A configuration with listeners of every kind.
fn with_directives(lab: &Lab) -> Result<Proc> {
    let www = www(lab);
    fs::create_dir_all(&www)?;
    fs::write(www.join("index.html"), "x".repeat(1024))?;
    let here = lab.directory().display();
    let path = lab.directory().join("nginx.conf");
    fs::write(
        &path,
        format!(
            "daemon off;\nworker_processes 2;\nuser www-data;\npid {here}/nginx.pid;\nerror_log stderr;\n\
             events {{ worker_connections 512; multi_accept on; accept_mutex on; }}\nhttp {{\n\
             \x20 access_log off; root {};\n  tcp_nodelay on;\n  client_body_temp_path {here}/body;\n\
             \x20 proxy_temp_path {here}/proxy;\n  fastcgi_temp_path {here}/fastcgi;\n  uwsgi_temp_path {here}/uwsgi;\n\
             \x20 scgi_temp_path {here}/scgi;\n\
             \x20 server {{ listen 81 reuseport; sendfile on; tcp_nopush on; sendfile_max_chunk 256k; }}\n\
             \x20 server {{ listen 82 deferred backlog=64; sendfile off; output_buffers 2 64k; }}\n\
             \x20 server {{ listen 83 so_keepalive=30s:5s:3 rcvbuf=64k sndbuf=128k; sendfile on; }}\n\
             \x20 server {{ listen [::]:84 ipv6only=off; sendfile on; tcp_nodelay off; postpone_output 4000; }}\n\
             \x20 server {{ listen [::]:85 ipv6only=on; listen {SERVER}:85 fastopen=16; lingering_close always; }}\n\
             \x20 server {{ listen 86; location / {{ proxy_pass http://{SERVER}:81; proxy_buffering off; }} }}\n\
             \x20 server {{ listen 87; limit_rate 20m; reset_timedout_connection on; send_timeout 5s; }}\n}}\n",
            www.display()
        ),
    )?;
    let mut server = lab
        .cmd(Host::Server, "nginx")
        .args("-e stderr -c")
        .arg(&path)
        .spawn()?;
    for port in 81..=87 {
        lab.wait_for_port(Proto::Tcp, port, &mut server)?;
    }
    Ok(server)
}

fn directives(lab: &Lab) -> Result<()> {
    let server = with_directives(lab)?;
    let file = www(lab).join("big");
    write_file(&file, BIG / 3, 3)?;
    let sum = sha256(&file)?;
    let watch = lab.watch_kernel()?;
    for port in [81, 82, 83, 84, 85, 87] {
        let url = format!("http://{SERVER}:{port}/");
        download(lab, Host::Client, &format!("{url}big"), &sum)
            .with_context(|| format!("port {port}"))?;
        if port >= 84 && port != 87 {
            download(
                lab,
                Host::Client,
                &format!("http://[{SERVER6}]:{port}/big"),
                &sum,
            )
            .with_context(|| format!("port {port} over IPv6"))?;
        }
    }
    for port in [81, 82, 83] {
        wrk(
            lab,
            10,
            1,
            &format!("http://{SERVER}:{port}/"),
            "Connection: close",
        )
        .with_context(|| format!("port {port}"))?;
    }
    watch.ensure_tcp_bypassed()?;
    // Through itself: the connections to the own address are local, the kernel's.
    download(lab, Host::Client, &format!("http://{SERVER}:86/big"), &sum).context("port 86")?;
    server.stop(LIMIT)?.success().map(|_| ())
}

/// A process for each connection, kept alive and not.
fn apache(lab: &Lab) -> Result<()> {
    let here = lab.directory().display();
    let www = www(lab);
    fs::create_dir_all(&www)?;
    fs::write(www.join("index.html"), "y".repeat(2048))?;
    let file = www.join("big");
    write_file(&file, BIG, 5)?;
    let sum = sha256(&file)?;
    let modules = "/usr/lib/apache2/modules";
    let path = lab.directory().join("apache.conf");
    fs::write(
        &path,
        format!(
            "ServerRoot {here}\nServerName flyover.test\nListen 8090\nPidFile {here}/apache.pid\n\
             ErrorLog /dev/stderr\nLoadModule mpm_prefork_module {modules}/mod_mpm_prefork.so\n\
             LoadModule authz_core_module {modules}/mod_authz_core.so\n\
             LoadModule dir_module {modules}/mod_dir.so\nDefaultRuntimeDir {here}\n\
             User www-data\nGroup www-data\nStartServers 3\nMaxRequestWorkers 20\nMaxConnectionsPerChild 500\n\
             KeepAlive On\nEnableSendfile On\nDocumentRoot {0}\nDirectoryIndex index.html\n\
             <Directory {0}>\n  Require all granted\n</Directory>\n",
            www.display()
        ),
    )?;
    let mut server = lab
        .cmd(Host::Server, "/usr/sbin/apache2")
        .args("-DFOREGROUND -f")
        .arg(&path)
        .spawn()?;
    lab.wait_for_port(Proto::Tcp, 8090, &mut server)?;
    let watch = lab.watch_kernel()?;
    download(
        lab,
        Host::Client,
        &format!("http://{SERVER}:8090/big"),
        &sum,
    )?;
    for words in ["-n 300 -c 5 -k", "-n 300 -c 5"] {
        let printed = lab
            .cmd(Host::Client, "ab")
            .args(&format!("-q {words} http://{SERVER}:8090/index.html"))
            .run(LIMIT)?
            .stdout;
        ensure!(
            printed.contains("Complete requests:      300")
                && printed.contains("Failed requests:        0"),
            "{printed}"
        );
    }
    watch.ensure_tcp_bypassed()?;
    server.stop(LIMIT)?;
    Ok(())
}
