//! openssl s_server and s_client: TLS over the stack, 20 MB each way.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use flyover_e2e::lab::{Host, Lab, SERVER, ensure_equal};
use flyover_e2e::pattern::{sha256, write_file};
use flyover_e2e::procfs::Proto;
use flyover_e2e::runner::Case;

use super::each_side;

const LIMIT: Duration = Duration::from_secs(30);
const BYTES: usize = 20_000_000;

pub fn cases(cases: &mut Vec<Case>) {
    each_side(cases, "openssl.download", download);
    each_side(cases, "openssl.upload", upload);
}

fn certificate(lab: &Lab) -> Result<()> {
    lab.plain(Host::Server, "openssl")
        .args("req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2")
        .args("-subj /CN=flyover.test -keyout key.pem -out cert.pem")
        .run(LIMIT)?;
    Ok(())
}

fn file(lab: &Lab) -> Result<PathBuf> {
    let path = lab.directory().join("file");
    write_file(&path, BYTES, 5)?;
    Ok(path)
}

/// `s_server -WWW` serves the file; `s_client` asks for it in HTTP/1.0.
fn download(lab: &Lab) -> Result<()> {
    certificate(lab)?;
    let file = file(lab)?;
    let mut server = lab
        .cmd(Host::Server, "openssl")
        .args("s_server -accept 4433 -key key.pem -cert cert.pem -WWW -quiet")
        .spawn()?;
    lab.wait_for_port(Proto::Tcp, 4433, &mut server)?;
    let watch = lab.watch_kernel()?;
    let request = lab.directory().join("request");
    std::fs::write(&request, "GET /file HTTP/1.0\r\n\r\n")?;
    let answer = lab
        .cmd(Host::Client, "openssl")
        .args(&format!("s_client -connect {SERVER}:4433 -quiet"))
        .input(&request)
        .output(LIMIT)?
        .bytes()?;
    let head = answer
        .windows(4)
        .position(|four| four == b"\r\n\r\n")
        .context("no HTTP head")?;
    let copy = lab.directory().join("copy");
    std::fs::write(&copy, &answer[head + 4..])?;
    ensure_equal("hash of the download", sha256(&copy)?, sha256(&file)?)?;
    watch.ensure_tcp_bypassed()?;
    drop(server);
    Ok(())
}

/// What `s_client` reads on standard input comes out of `s_server`.
fn upload(lab: &Lab) -> Result<()> {
    certificate(lab)?;
    let file = file(lab)?;
    let mut server = lab
        .cmd(Host::Server, "openssl")
        .args("s_server -accept 4433 -key key.pem -cert cert.pem -quiet -naccept 1")
        // It ends the connection when its standard input ends.
        .piped()
        .spawn()?;
    lab.wait_for_port(Proto::Tcp, 4433, &mut server)?;
    let watch = lab.watch_kernel()?;
    lab.cmd(Host::Client, "openssl")
        .args(&format!(
            "s_client -connect {SERVER}:4433 -quiet -no_ign_eof -nocommands"
        ))
        .input(&file)
        .run(LIMIT)?;
    let received = server.finish(LIMIT)?.bytes()?;
    let copy = lab.directory().join("copy");
    std::fs::write(&copy, received)?;
    ensure_equal("hash of the upload", sha256(&copy)?, sha256(&file)?)?;
    watch.ensure_tcp_bypassed()
}
