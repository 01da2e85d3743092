//! From facts to a verdict: which kind of V-NIC, why; or why none, and what to do.

use flyover_vnic::VnicKind;
use flyover_vnic::host::{XdpMode, choose};
use serde::Serialize;

use super::host::Kernel;
use super::iface::Facts;

/// An interface with its verdict, as it is shown.
#[derive(Serialize, Clone, PartialEq, Eq, Debug)]
pub(super) struct Judged {
    pub(super) name: String,
    pub(super) ifindex: u32,
    pub(super) driver: String,
    pub(super) mac: String,
    pub(super) mtu: u32,
    pub(super) up: bool,
    pub(super) rx_queues: u32,
    /// XDP program on it by anybody: `native`, `generic`, `offloaded`, `several`.
    pub(super) xdp_program: Option<XdpProgram>,
    /// How an XDP program of ours would run: `native`, `generic`, or not at all.
    pub(super) xdp: Option<&'static str>,
    pub(super) zero_copy: bool,
    /// Offloads that are on; `None` when the device cannot say.
    pub(super) offloads: Option<Vec<&'static str>>,
    /// `packet` or `xdp`; `None`: not accelerated.
    pub(super) vnic: Option<&'static str>,
    /// Why.
    pub(super) why: String,
    /// What to do about it; empty when nothing is to be done.
    pub(super) advice: String,
}

impl Judged {
    /// Whether sockets on this interface are accelerated right now.
    pub(super) fn is_served(&self) -> bool {
        self.up && self.vnic.is_some()
    }
}

/// A program that is attached already.
#[derive(Serialize, Clone, PartialEq, Eq, Debug)]
pub(super) struct XdpProgram {
    pub(super) mode: &'static str,
    pub(super) id: u32,
}

/// Judges one interface.
pub(super) fn judge(facts: Facts, kernel: Kernel) -> Judged {
    let link = &facts.link;
    let (vnic, why, advice) = verdict(&facts, kernel);
    let offloads = facts.offloads.map(|o| {
        [
            (o.rx_checksum, "rx-checksum"),
            (o.tx_checksum, "tx-checksum"),
            (o.tso, "tso"),
            (o.gso, "gso"),
            (o.gro, "gro"),
        ]
        .into_iter()
        .filter_map(|(on, name)| on.then_some(name))
        .collect()
    });
    Judged {
        ifindex: link.ifindex,
        mac: link.mac.to_string(),
        mtu: link.mtu,
        up: link.up,
        rx_queues: link.rx_queues,
        xdp_program: link.xdp.map(|(mode, id)| XdpProgram {
            mode: mode_name(mode),
            id,
        }),
        xdp: match (link.ethernet, link.native_xdp) {
            (false, _) => None,
            (true, true) => Some("native"),
            (true, false) => Some("generic"),
        },
        zero_copy: link.zero_copy,
        offloads,
        vnic,
        why,
        advice,
        driver: facts.driver,
        name: facts.link.name,
    }
}

/// How the interface is accelerated, why, and what to do about it.
fn verdict(facts: &Facts, kernel: Kernel) -> (Option<&'static str>, String, String) {
    let link = &facts.link;
    let choice = choose(link);
    let no = |why: &str, advice: String| (None, why.to_owned(), advice);
    let kind = match choice.kind {
        Some(VnicKind::Packet) => "packet",
        Some(VnicKind::Xdp) => "xdp",
        Some(VnicKind::Mem) | None => {
            return no(choice.why, advice_for_none(facts));
        }
    };
    if let Some(master) = &facts.master {
        let why = format!("a port of {master}, which takes its packets");
        return (None, why, format!("{master} is the interface to look at"));
    }
    if kernel < Kernel::TCX {
        return no(
            "the kernel is older than 6.6",
            "use a newer kernel".to_owned(),
        );
    }
    if !link.up {
        let advice = format!("ip link set {} up", link.name);
        return (
            Some(kind),
            format!("{}; the interface is down", choice.why),
            advice,
        );
    }
    let advice = match link.xdp {
        Some(_) if link.zero_copy => format!(
            "for the xdp kind, remove the other XDP program: ip link set dev {} xdp off",
            link.name
        ),
        _ => String::new(),
    };
    (Some(kind), choice.why.to_owned(), advice)
}

fn advice_for_none(facts: &Facts) -> String {
    if facts.link.loopback {
        return String::new();
    }
    match facts.driver.as_str() {
        "tun" | "wireguard" | "ppp" | "gre" | "ipip" | "sit" | "vti" => format!(
            "traffic through this tunnel stays with the kernel; connections to the tunnel's far \
             end itself leave by another interface, which {} does not hinder",
            facts.link.name
        ),
        _ => "sockets on this interface stay with the kernel; nothing can be done".to_owned(),
    }
}

fn mode_name(mode: XdpMode) -> &'static str {
    match mode {
        XdpMode::Native => "native",
        XdpMode::Generic => "generic",
        XdpMode::Offloaded => "offloaded",
        XdpMode::Several => "several",
    }
}

#[cfg(test)]
pub(super) mod tests {
    use flyover_vnic::host::{Interface, Offloads};
    use flyover_wire::Mac;

    use super::*;

    /// An ordinary veth.
    pub(in super::super) fn veth() -> Facts {
        Facts {
            link: Interface {
                ifindex: 7,
                name: "veth0".to_owned(),
                mac: Mac([2, 0, 0, 0, 0, 7]),
                mtu: 1500,
                up: true,
                ethernet: true,
                loopback: false,
                kind: "veth".to_owned(),
                rx_queues: 2,
                tso: true,
                gso_max_size: 65_536,
                gso_max_segs: 65_535,
                xdp: None,
                native_xdp: true,
                zero_copy: false,
            },
            driver: "veth".to_owned(),
            offloads: Some(Offloads {
                tso: true,
                gro: true,
                ..Offloads::default()
            }),
            master: None,
        }
    }

    const NEW: Kernel = Kernel(6, 18);

    #[test]
    fn kinds() {
        let judged = judge(veth(), NEW);
        assert_eq!((judged.vnic, judged.xdp), (Some("packet"), Some("native")));
        assert_eq!(judged.offloads, Some(vec!["tso", "gro"]));
        assert_eq!(judged.advice, "");

        let mut nic = veth();
        nic.link.zero_copy = true;
        assert_eq!(judge(nic, NEW).vnic, Some("xdp"));

        let mut taken = veth();
        taken.link.zero_copy = true;
        taken.link.xdp = Some((XdpMode::Native, 42));
        let judged = judge(taken, NEW);
        assert_eq!(judged.vnic, Some("packet"));
        assert_eq!(
            judged.xdp_program,
            Some(XdpProgram {
                mode: "native",
                id: 42
            })
        );
        assert!(judged.advice.contains("xdp off"), "{}", judged.advice);
    }

    #[test]
    fn obstacles() {
        let mut down = veth();
        down.link.up = false;
        let judged = judge(down, NEW);
        assert_eq!(
            (judged.vnic, judged.advice.as_str()),
            (Some("packet"), "ip link set veth0 up")
        );

        let mut port = veth();
        port.master = Some("br0".to_owned());
        let judged = judge(port, NEW);
        assert!(judged.vnic.is_none() && judged.why.contains("br0"));

        assert_eq!(judge(veth(), Kernel(5, 15)).vnic, None);

        let mut tunnel = veth();
        tunnel.link.ethernet = false;
        tunnel.driver = "wireguard".to_owned();
        let judged = judge(tunnel, NEW);
        assert!(judged.vnic.is_none() && judged.xdp.is_none() && !judged.advice.is_empty());
    }
}
