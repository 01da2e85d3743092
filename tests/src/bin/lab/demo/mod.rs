//! The demonstration: the same programs on the kernel's stack and with Flyover, with throughput, latency, CPU time and the
//! proof that every byte came back right. Prints a table.
//!
//! | file | what |
//! |---|---|
//! | `veth.rs` | two hosts: Flyover on the server, on the client, on both |
//! | `local.rs` | one host and an ordinary user: the local path |

mod local;
mod veth;

use anyhow::{Result, ensure};
use flyover_e2e::cleanup;
use flyover_e2e::lab::{Lab, Setup, Side};
use flyover_e2e::local::{becomes_ordinary, ensure_installed};
use flyover_e2e::machine;
use flyover_e2e::runner;
use flyover_e2e::table::{Table, short};
use flyover_e2e::wiring;
use flyover_e2e::workloads::Measured;
use std::io::Write as _;
use std::path::Path;

#[derive(clap::Args)]
pub struct Args {
    /// Shorter runs.
    #[arg(long)]
    quick: bool,
    /// Only the kernel's stack.
    #[arg(long)]
    plain: bool,
    /// The local path: two programs on one host, as an ordinary user; root becomes one in a network namespace of its own.
    #[arg(long)]
    local: bool,
    /// Only workloads whose name contains one of these.
    filters: Vec<String>,
}

/// Where the workloads run.
struct Stage {
    workloads: &'static [Workload],
    /// The kernel comes first.
    sides: &'static [Side],
    lab: fn(&Setup, Side) -> Result<Lab>,
    /// What a side is called in the table.
    place: fn(Side) -> &'static str,
    /// Printed above the table.
    about: &'static str,
}

/// One group of rows, one for each side.
struct Workload {
    name: &'static str,
    /// What [`Measured::rate`] counts.
    unit: &'static str,
    /// Options of `flyover run`.
    options: &'static [&'static str],
    run: fn(&Lab, f64) -> Result<(Measured, String)>,
}

pub fn run(args: &Args) -> Result<()> {
    let stage = if args.local {
        if becomes_ordinary()? {
            return Ok(());
        }
        ensure_installed(local::NEEDED)?;
        cleanup::prepare_anyone()?;
        &local::STAGE
    } else {
        cleanup::prepare()?;
        &veth::STAGE
    };
    let bin = runner::built_programs()?;
    ensure!(
        args.plain || wiring::is_built(&bin),
        "{} holds no flyover, flyoverd and libflyover.so: build the workspace first",
        bin.display()
    );
    println!("{}\n{}\n", stage.about, machine::description());
    let wanted = |w: &&Workload| {
        args.filters.is_empty() || args.filters.iter().any(|word| w.name.contains(word))
    };
    let workloads: Vec<&Workload> = stage.workloads.iter().filter(wanted).collect();
    let (table, failed) = run_all(args, stage, &workloads, &bin)?;
    cleanup::everything();
    println!("\n{}", table.render());
    println!("cores: CPU time of everything that took part, as cores. CPU us: the same for one");
    println!(
        "operation, or for one megabyte of a stream. x kernel: the rate against the kernel's."
    );
    ensure!(failed == 0, "{failed} runs failed");
    ensure!(!workloads.is_empty(), "there is no such workload");
    Ok(())
}

/// Every workload on every side, with progress; the table, and how many runs failed.
fn run_all(
    args: &Args,
    stage: &Stage,
    workloads: &[&Workload],
    bin: &Path,
) -> Result<(Table, u32)> {
    let seconds = if args.quick { 1.0 } else { 3.0 };
    let sides = match args.plain {
        true => &stage.sides[..1],
        false => stage.sides,
    };
    let mut table = Table::new(&[
        "workload",
        "flyover on",
        "rate",
        "unit",
        "p50 us",
        "p99 us",
        "cores",
        "CPU us",
        "x kernel",
        "proof",
    ]);
    let (mut number, mut failed) = (0, 0);
    let total = workloads.len() * sides.len();
    for workload in workloads {
        let mut kernel = None;
        for &side in sides {
            number += 1;
            let place = (stage.place)(side);
            print!("[{number:>2}/{total}] {}, {place}", workload.name);
            std::io::stdout().flush()?;
            let name = if side == sides[0] { workload.name } else { "" };
            match measure(stage, workload, side, bin, seconds, number) {
                Ok((measured, proof)) => {
                    println!(": {} {}", short(measured.rate), workload.unit);
                    let kernel = *kernel.get_or_insert(measured.rate);
                    let times = (side != Side::Neither).then(|| measured.rate / kernel);
                    table.row(row([name, place, workload.unit], measured, times, proof));
                }
                Err(error) => {
                    println!(": FAILED\n    {error:#}");
                    failed += 1;
                    table.row([name, place, "failed"].map(str::to_owned));
                    // Nothing to compare with.
                    if side == Side::Neither {
                        kernel = Some(f64::NAN);
                    }
                }
            }
        }
    }
    Ok((table, failed))
}

fn measure(
    stage: &Stage,
    workload: &Workload,
    side: Side,
    bin: &Path,
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
        daemon_options: Vec::new(),
    };
    let lab = (stage.lab)(&setup, side)?;
    let result = (workload.run)(&lab, seconds);
    let finished = lab.finish();
    cleanup::remove_directory(&setup.directory);
    let result = result?;
    finished?;
    Ok(result)
}

fn row(
    [name, place, unit]: [&str; 3],
    measured: Measured,
    times: Option<f64>,
    proof: String,
) -> Vec<String> {
    let optional = |value: Option<f64>| value.map_or_else(String::new, short);
    vec![
        name.to_owned(),
        place.to_owned(),
        short(measured.rate),
        unit.to_owned(),
        optional(measured.p50_us),
        optional(measured.p99_us),
        format!("{:.2}", measured.cores),
        short(measured.cpu_us),
        times.map_or_else(String::new, |times| format!("{times:.2}")),
        proof,
    ]
}
