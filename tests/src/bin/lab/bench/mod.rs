//! The benchmarks: one table, medians over several runs with their spread, the kernel (cubic)
//! beside Flyover, sleeping and spinning, and the raw frame limits of both V-NIC kinds from the same
//! runs. Every round measures everything once, so that slow changes of the machine hit all columns.
//!
//! | file | what lives there |
//! |---|---|
//! | `plan.rs` | what a benchmark is made of |
//! | `veth.rs`, `veth_bars.rs` | two hosts: Flyover's V-NICs |
//! | `local.rs` | one host: the local path |
//! | `floor.rs` | raw frames: the `raw_floor` example of `flyover-vnic` |
//! | `report.rs` | results: the table, the bars, JSON |

mod floor;
mod local;
mod plan;
mod report;
mod veth;
mod veth_bars;

use anyhow::{Result, ensure};
use flyover_e2e::lab::Setup;
use flyover_e2e::local::{becomes_ordinary, ensure_installed};
use flyover_e2e::{cleanup, runner, wiring};
use std::path::Path;

use plan::{Column, Floor, Group, Plan, Values};
use report::Results;

#[derive(clap::Args)]
pub struct Args {
    /// Only groups whose name contains one of these.
    filters: Vec<String>,
    /// Print JSON instead of the table.
    #[arg(long)]
    json: bool,
    /// How often everything is measured.
    #[arg(long, default_value_t = 5)]
    runs: u32,
    /// Seconds of one measurement.
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// Only the kernel's stack and the raw frames.
    #[arg(long)]
    plain: bool,
    /// Print the names of the groups and do nothing.
    #[arg(long)]
    list: bool,
    /// The local path: two programs on one host, as an ordinary user; root becomes one in a network namespace of its own.
    #[arg(long)]
    local: bool,
}

pub fn run(args: &Args) -> Result<()> {
    let plan: &Plan = if args.local {
        &local::PLAN
    } else {
        &veth::PLAN
    };
    let wanted = |group: &&Group| {
        args.filters.is_empty() || args.filters.iter().any(|word| group.name.contains(word))
    };
    let groups: Vec<&Group> = plan.groups.iter().filter(wanted).collect();
    if args.list {
        plan.groups
            .iter()
            .for_each(|group| println!("{}", group.name));
        return Ok(());
    }
    if args.local {
        if becomes_ordinary()? {
            return Ok(());
        }
        ensure_installed(local::NEEDED)?;
        cleanup::prepare_anyone()?;
    } else {
        cleanup::prepare()?;
    }
    let bin = runner::built_programs()?;
    ensure!(
        args.plain || wiring::is_built(&bin),
        "{} holds no flyover, flyoverd and libflyover.so: build the workspace first",
        bin.display()
    );

    let floors: Vec<Floor> = groups.iter().filter_map(|group| group.floor).collect();
    let mut results = Results::new(plan);
    let mut failures = Vec::new();
    for round in 1..=args.runs {
        if !floors.is_empty() {
            eprintln!("run {round}/{}: raw frames", args.runs);
            match floor::measure(&bin, &floors, args.seconds) {
                Ok(values) => values
                    .into_iter()
                    .for_each(|(column, row, value)| results.add(column, row, value)),
                Err(error) => note(&mut failures, "raw frames", &error),
            }
        }
        for group in &groups {
            for &column in group.columns {
                if args.plain && column != Column::Kernel {
                    continue;
                }
                let what = format!("{}, {}", group.name, column.name());
                eprintln!("run {round}/{}: {what}", args.runs);
                match measure(plan, group, column, &bin, args.seconds) {
                    Ok(values) => values
                        .into_iter()
                        .for_each(|(row, value)| results.add(column, row, value)),
                    Err(error) => note(&mut failures, &what, &error),
                }
            }
        }
    }
    cleanup::everything();
    if args.json {
        println!("{:#}", results.to_json(args.runs, &failures));
    } else {
        println!("{}", results.to_text(args.runs));
    }
    ensure!(
        failures.is_empty(),
        "{} measurements failed:\n{}",
        failures.len(),
        failures.join("\n")
    );
    Ok(())
}

/// A measurement that failed does not end the run; it is listed at its end.
fn note(failures: &mut Vec<String>, what: &str, error: &anyhow::Error) {
    eprintln!("    failed: {error:#}");
    failures.push(format!("{what}: {error:#}"));
}

/// One measurement in a lab of its own.
fn measure(plan: &Plan, group: &Group, column: Column, bin: &Path, seconds: f64) -> Result<Values> {
    let mut options: Vec<String> = column
        .options()
        .iter()
        .map(|&word| word.to_owned())
        .collect();
    options.extend(group.options.iter().map(|&word| word.to_owned()));
    let setup = Setup {
        bin: bin.to_owned(),
        programs: runner::scripts(),
        directory: cleanup::make_directory(0)?,
        plain: false,
        options,
        daemon_options: Vec::new(),
    };
    let lab = (plan.lab)(&setup, column.side())?;
    let values = (group.run)(&lab, column, seconds);
    let finished = lab.finish();
    let values = values.and_then(|values| finished.map(|()| values));
    cleanup::remove_directory(&setup.directory);
    values
}
