//! The report of `flyover check` for people.

use std::fmt::Write as _;

use super::Report;
use super::host::{Finding, Weight};
use super::verdict::Judged;

/// Width of the names of findings.
const NAME: usize = 20;

/// The whole report.
pub(super) fn text(report: &Report) -> String {
    let mut out = String::new();
    for finding in &report.host.findings {
        push(&mut out, &line(finding));
    }
    for interface in &report.interfaces {
        out.push('\n');
        push(&mut out, &block(interface));
    }
    out.push('\n');
    let counted = report.interfaces.iter().filter(|i| i.is_served()).count();
    out.push_str(&match (report.accelerated, counted) {
        (true, 1) => "Programs can be accelerated on 1 interface.\n".to_owned(),
        (true, n) => format!("Programs can be accelerated on {n} interfaces.\n"),
        (false, 0) => {
            "No interface can be accelerated; programs use the kernel there.\n".to_owned()
        }
        (false, _) => "Programs use the kernel until what is marked ✗ is put right.\n".to_owned(),
    });
    out.push_str(if report.local_path {
        "Programs of this user can use the local path to one another: shared memory, no privilege.\n"
    } else {
        "Programs cannot use the local path to one another: it takes a flyoverd and libflyover.so.\n"
    });
    out
}

fn push(out: &mut String, text: &str) {
    out.push_str(text);
}

fn line(finding: &Finding) -> String {
    let mark = match finding.weight {
        Weight::Good => '✓',
        Weight::Note => '!',
        Weight::Bad => '✗',
    };
    let mut text = format!("{mark} {:NAME$} {}\n", finding.what, finding.value);
    if !finding.advice.is_empty() {
        // Writing to a String cannot fail.
        let _: std::fmt::Result = writeln!(text, "  {:NAME$} → {}", "", finding.advice);
    }
    text
}

fn block(i: &Judged) -> String {
    let state = if i.up { "up" } else { "down" };
    let queues = if i.rx_queues == 1 { "queue" } else { "queues" };
    let mut rows = vec![
        format!(
            "{}: {}, {state}, MTU {}, {} {queues}",
            i.name, i.driver, i.mtu, i.rx_queues
        ),
        match i.vnic {
            Some(kind) => format!("  V-NIC     {kind}: {}", i.why),
            None => format!("  V-NIC     none: {}", i.why),
        },
    ];
    if !i.advice.is_empty() {
        rows.push(format!("            → {}", i.advice));
    }
    rows.push(match i.xdp {
        None => "  XDP       not possible".to_owned(),
        Some(mode) => {
            let copy = if i.zero_copy { "zero-copy" } else { "copying" };
            match &i.xdp_program {
                None => format!("  XDP       {mode}, {copy}"),
                Some(p) => {
                    format!(
                        "  XDP       {mode}, {copy}; a program is attached ({}, id {})",
                        p.mode, p.id
                    )
                }
            }
        }
    });
    rows.push(match &i.offloads {
        None => "  offloads  unknown".to_owned(),
        Some(on) if on.is_empty() => "  offloads  none".to_owned(),
        Some(on) => format!("  offloads  {}", on.join(" ")),
    });
    rows.push(String::new());
    rows.join("\n")
}

#[cfg(test)]
mod tests {
    use super::super::host::{Host, Kernel, Source};
    use super::super::verdict::{judge, tests::veth};
    use super::*;

    #[test]
    fn looks_like_this() {
        let kernel = Kernel(6, 18);
        let finding = |weight, advice: &str| Finding {
            what: "kernel",
            value: "6.18".to_owned(),
            weight,
            advice: advice.to_owned(),
        };
        let findings = vec![finding(Weight::Good, ""), finding(Weight::Note, "do this")];
        let report = Report {
            version: "0",
            host: Host {
                kernel,
                findings,
                vnics: Source::System,
            },
            interfaces: vec![judge(veth(), kernel)],
            accelerated: true,
            local_path: true,
        };
        assert_eq!(
            text(&report),
            "\
✓ kernel               6.18
! kernel               6.18
                       → do this

veth0: veth, up, MTU 1500, 2 queues
  V-NIC     packet: the driver has no zero-copy XDP: super-frames are faster
  XDP       native, copying
  offloads  tso gro

Programs can be accelerated on 1 interface.
Programs of this user can use the local path to one another: shared memory, no privilege.
"
        );
    }
}
