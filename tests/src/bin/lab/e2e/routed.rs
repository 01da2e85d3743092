//! Two gateways between server and client: routes that move, a path with a smaller MTU.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use flyover_e2e::echo::{self, Probe};
use flyover_e2e::lab::{Host, Lab, Side, server};
use flyover_e2e::procfs::{Proto, sent_by};
use flyover_e2e::runner::Case;
use flyover_e2e::wiring::{self, GATEWAY2};

const PORT: u16 = 7800;
const SOON: Duration = Duration::from_secs(5);

pub fn cases(cases: &mut Vec<Case>) {
    for (name, work) in [
        (
            "routed.gateway-moves",
            gateway_moves as fn(&Lab) -> Result<()>,
        ),
        ("routed.path-mtu", path_mtu),
    ] {
        for side in [Side::Server, Side::Client] {
            let case = Case::new(format!("{name}.{}", side.name()), move |setup| {
                let lab = wiring::gateways(setup, side)?;
                work(&lab)?;
                lab.finish()
            });
            cases.push(if side == Side::Server {
                case
            } else {
                case.only_flyover()
            });
        }
    }
}

/// The route of the accelerated host is moved to the second gateway while a connection is open.
fn gateway_moves(lab: &Lab) -> Result<()> {
    let _serving = echo::serve(lab, PORT)?;
    let mut probe = Probe::connect(lab, server(PORT))?;
    probe
        .echo(100_000, SOON)
        .context("through the first gateway")?;
    let (host, gateway, network, out) = match lab.side {
        Side::Client => (Host::Client, "10.78.0.12", "10.77.0.0/24", "near"),
        _ => (Host::Server, GATEWAY2, "10.78.0.0/24", "far"),
    };
    lab.ensure_accelerated(host, Proto::Tcp, PORT)?;
    let second = &lab.others[1];
    let before = sent_by(second, out)?.0;
    lab.netns(host)
        .ip(&format!("route replace {network} via {gateway}"))?;
    probe
        .echo(500_000, SOON)
        .context("through the second gateway")?;
    let moved = sent_by(second, out)?.0 - before;
    ensure!(
        moved > 500_000,
        "the second gateway forwarded only {moved} bytes"
    );
    Ok(())
}

/// The first gateway forwards only 900 bytes at once; it says so with ICMP, and the connection goes
/// on with smaller segments. The MTU is the routes', not the interfaces': a veth interface would
/// silently drop what it receives above its MTU.
fn path_mtu(lab: &Lab) -> Result<()> {
    let _serving = echo::serve(lab, PORT)?;
    let mut probe = Probe::connect(lab, server(PORT))?;
    probe.echo(100_000, SOON).context("before")?;
    let first = &lab.others[0];
    for (network, interface) in [("10.77.0.0/24", "near"), ("10.78.0.0/24", "far")] {
        first.ip(&format!(
            "route add {network} dev {interface} metric 1 mtu lock 900"
        ))?;
        first.ip(&format!("route del {network} dev {interface} proto kernel"))?;
    }
    probe
        .echo(300_000, Duration::from_secs(20))
        .context("over a path of 900 bytes")?;
    Probe::connect(lab, server(PORT))?
        .echo(300_000, SOON)
        .context("on a new connection")
}
