//! Bulk streams: every byte compared, on a good wire and on one that loses, reorders and duplicates.

use std::time::Duration;

use anyhow::{Result, ensure};
use flyover_e2e::lab::{Host, Lab, Setup, Side, server, server6};
use flyover_e2e::procfs::Proto;
use flyover_e2e::runner::Case;
use flyover_e2e::tools::{json, number};
use flyover_e2e::wiring::{self, Impairment};

use super::{each_side, on_pair, with_options};

const PORT: u16 = 7100;
const LIMIT: Duration = Duration::from_secs(60);

/// Which way the bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// From the connecting to the listening host.
    Up,
    /// The other way.
    Down,
}

pub fn cases(cases: &mut Vec<Case>) {
    each_side(cases, "bulk.clean", clean);
    cases.push(on_pair("bulk.clean", Side::Both, clean).only_flyover());
    cases.push(with_options("bulk.xdp", Side::Server, &["--vnic", "xdp"], clean).only_flyover());
    cases.push(with_options("bulk.xdp", Side::Both, &["--vnic", "xdp"], clean).only_flyover());
    for (name, impairment) in [
        (
            "bulk.loss",
            Impairment {
                loss: 1.0,
                reorder: 0.0,
                duplicate: 0.0,
                seed: 11,
            },
        ),
        (
            "bulk.reorder",
            Impairment {
                loss: 0.0,
                reorder: 2.0,
                duplicate: 1.0,
                seed: 12,
            },
        ),
        (
            "bulk.everything",
            Impairment {
                loss: 1.0,
                reorder: 1.0,
                duplicate: 1.0,
                seed: 13,
            },
        ),
    ] {
        for side in [Side::Server, Side::Client, Side::Both] {
            let case = Case::new(format!("{name}.{}", side.name()), move |setup: &Setup| {
                impaired(setup, side, impairment)
            });
            cases.push(if side == Side::Server {
                case
            } else {
                case.only_flyover()
            });
        }
    }
}

/// Several lengths of writes, both families, both directions.
fn clean(lab: &Lab) -> Result<()> {
    let watch = lab.watch_kernel()?;
    let mut port = PORT;
    for flow in [Flow::Up, Flow::Down] {
        for (write, bytes) in [(65_536, 300_000_000), (1_000, 20_000_000), (64, 2_000_000)] {
            transfer(lab, flow, server(port), write, bytes)?;
            port += 1;
        }
        transfer(lab, flow, server6(port), 65_536, 100_000_000)?;
        port += 1;
    }
    watch.ensure_tcp_bypassed()
}

fn impaired(setup: &Setup, side: Side, impairment: Impairment) -> Result<()> {
    let (lab, mut middlebox) = wiring::lossy(setup, side, impairment)?;
    for (port, flow) in [(PORT, Flow::Up), (PORT + 1, Flow::Down)] {
        transfer(&lab, flow, server(port), 65_536, 30_000_000)?;
    }
    middlebox.ensure_running()?;
    lab.finish()
}

/// One verified stream; fails on a wrong byte, a wrong count, or a pause of more than 5 s.
fn transfer(
    lab: &Lab,
    flow: Flow,
    address: std::net::SocketAddr,
    write: usize,
    bytes: u64,
) -> Result<()> {
    let send = format!("send --write {write} --bytes {bytes}");
    let receive = "receive".to_owned();
    let (listening, connecting) = match flow {
        Flow::Up => (&receive, &send),
        Flow::Down => (&send, &receive),
    };
    let mut listener = lab
        .workload(Host::Server, "stream")
        .args(&format!("{listening} --listen {address}"))
        .spawn()?;
    lab.wait_for_port(Proto::Tcp, address.port(), &mut listener)?;
    let connecting = lab
        .workload(Host::Client, "stream")
        .args(&format!("{connecting} --connect {address}"))
        .run(LIMIT)?;
    let listening = listener.finish(Duration::from_secs(10))?.success()?;
    let receiver = match flow {
        Flow::Up => json(&listening)?,
        Flow::Down => json(&connecting)?,
    };
    let stall = number(&receiver, "longest_stall_ms")?;
    ensure!(stall < 5_000.0, "{flow:?}: nothing arrived for {stall} ms");
    ensure!(
        number(&receiver, "bytes")? == bytes as f64,
        "{flow:?}: {receiver}"
    );
    Ok(())
}
