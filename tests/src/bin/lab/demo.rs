//! The demonstration: the same programs on the kernel's stack, then with Flyover on the server, on
//! the client and on both, with throughput, latency, CPU time and the proof that every byte came
//! back right. Prints a table.

use anyhow::{Result, ensure};
use flyover_e2e::cleanup;
use flyover_e2e::lab::{Lab, Setup, Side};
use flyover_e2e::machine;
use flyover_e2e::procfs::Proto;
use flyover_e2e::runner;
use flyover_e2e::table::{Table, short};
use flyover_e2e::wiring;
use flyover_e2e::workloads::{self, Measured, Waiting};
use std::io::Write as _;

#[derive(clap::Args)]
pub struct Args {
    /// Shorter runs.
    #[arg(long)]
    quick: bool,
    /// Only the kernel's stack.
    #[arg(long)]
    plain: bool,
}

/// One row of four cells: kernel, server, client, both.
struct Workload {
    name: &'static str,
    /// What [`Measured::rate`] counts.
    unit: &'static str,
    /// Options of `flyover run`.
    options: &'static [&'static str],
    run: fn(&Lab, f64) -> Result<(Measured, String)>,
}

const WORKLOADS: &[Workload] = &[
    Workload {
        name: "redis GET, 50 connections",
        unit: "req/s",
        options: &[],
        run: |lab, seconds| {
            let requests = (seconds * 50_000.0) as u32;
            let measured = workloads::redis_get(lab, 50, requests)?;
            Ok((measured, format!("{requests} answers")))
        },
    },
    Workload {
        name: "nginx 1 KiB, wrk, 50 connections",
        unit: "req/s",
        options: &[],
        run: |lab, seconds| {
            let measured = workloads::nginx_wrk(lab, 50, seconds.ceil() as u32)?;
            Ok((measured, "all 200 OK".to_owned()))
        },
    },
    Workload {
        name: "nginx 100 MB, curl",
        unit: "Gb/s",
        options: &[],
        run: |lab, _| Ok((workloads::nginx_download(lab)?, "SHA-256 equal".to_owned())),
    },
    Workload {
        name: "Python asyncio echo, 20 connections",
        unit: "msg/s",
        options: &[],
        run: |lab, seconds| {
            let (measured, bytes) = workloads::asyncio_echo(lab, seconds)?;
            Ok((measured, format!("{}B compared", short(bytes))))
        },
    },
    Workload {
        name: "UDP ping-pong 64 B, sleeping",
        unit: "msg/s",
        options: &[],
        run: |lab, seconds| ping_pong(lab, Waiting::Blocking, seconds),
    },
    // The kernel spins in a loop of non-blocking calls; so does the program under Flyover.
    Workload {
        name: "UDP ping-pong 64 B, spinning",
        unit: "msg/s",
        options: &[],
        run: |lab, seconds| ping_pong(lab, Waiting::Looping, seconds),
    },
    Workload {
        name: "TCP stream, 64 KiB writes",
        unit: "Gb/s",
        options: &[],
        run: |lab, seconds| {
            let measured = workloads::stream(lab, 65_536, seconds, true)?;
            Ok((measured, "every byte compared".to_owned()))
        },
    },
];

fn ping_pong(lab: &Lab, waiting: Waiting, seconds: f64) -> Result<(Measured, String)> {
    let count = (seconds * 15_000.0) as u32;
    let measured = workloads::ping_pong(lab, Proto::Udp, waiting, count)?;
    Ok((measured, format!("{count} answers compared")))
}

pub fn run(args: &Args) -> Result<()> {
    cleanup::prepare()?;
    let bin = runner::built_programs()?;
    ensure!(
        args.plain || wiring::is_built(&bin),
        "{} holds no flyover, flyoverd and libflyover.so: build the workspace first",
        bin.display()
    );
    let seconds = if args.quick { 1.0 } else { 3.0 };
    println!("Two network namespaces joined by a veth pair; the kernel uses cubic.");
    println!("{}\n", machine::description());

    let sides: &[Side] = if args.plain {
        &[Side::Neither]
    } else {
        &[Side::Neither, Side::Server, Side::Client, Side::Both]
    };
    let headings = [
        "workload",
        "flyover on",
        "rate",
        "unit",
        "p50 us",
        "p99 us",
        "cores",
        "CPU us",
        "proof",
    ];
    let mut table = Table::new(&headings);
    let mut failed = 0;
    let mut number = 0;
    for workload in WORKLOADS {
        for &side in sides {
            number += 1;
            let total = WORKLOADS.len() * sides.len();
            print!("[{number:>2}/{total}] {}, {}", workload.name, place(side));
            std::io::stdout().flush()?;
            match measure(workload, side, &bin, seconds, number) {
                Ok((measured, proof)) => {
                    println!(": {} {}", short(measured.rate), workload.unit);
                    table.row(row(workload, side, measured, proof));
                }
                Err(error) => {
                    println!(": FAILED\n    {error:#}");
                    failed += 1;
                    let name = workload.name.to_owned();
                    table.row([name, place(side).to_owned(), "failed".to_owned()]);
                }
            }
        }
    }
    cleanup::everything();
    println!("\n{}", table.render());
    println!("cores: CPU time of everything that took part, as cores. CPU us: the same for one");
    println!("operation, or for one megabyte of a stream.");
    ensure!(failed == 0, "{failed} of {number} runs failed");
    Ok(())
}

fn place(side: Side) -> &'static str {
    match side {
        Side::Neither => "- (kernel)",
        side => side.name(),
    }
}

fn measure(
    workload: &Workload,
    side: Side,
    bin: &std::path::Path,
    seconds: f64,
    number: u32,
) -> Result<(Measured, String)> {
    let setup = Setup {
        bin: bin.to_owned(),
        programs: runner::scripts(),
        directory: cleanup::make_directory(number)?,
        plain: false,
        options: workload
            .options
            .iter()
            .map(|&word| word.to_owned())
            .collect(),
    };
    let lab = wiring::pair(&setup, side)?;
    let result = (workload.run)(&lab, seconds);
    let finished = lab.finish();
    cleanup::remove_directory(&setup.directory);
    let result = result?;
    finished?;
    Ok(result)
}

fn row(workload: &Workload, side: Side, measured: Measured, proof: String) -> Vec<String> {
    let name = if side == Side::Neither {
        workload.name
    } else {
        ""
    };
    let optional = |value: Option<f64>| value.map_or_else(String::new, short);
    vec![
        name.to_owned(),
        place(side).to_owned(),
        short(measured.rate),
        workload.unit.to_owned(),
        optional(measured.p50_us),
        optional(measured.p99_us),
        format!("{:.2}", measured.cores),
        short(measured.cpu_us),
        proof,
    ]
}
