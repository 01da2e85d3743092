//! Well-known load generators: run one, read its report.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::cmd::Output;
use crate::lab::{Host, Lab, SERVER};

/// Throughput and latency as a load generator reports them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Load {
    /// Operations per second.
    pub per_second: f64,
    /// Median latency, microseconds.
    pub p50_us: f64,
    /// 99th percentile, microseconds.
    pub p99_us: f64,
}

/// What `redis-benchmark` is asked to do.
#[derive(Clone, Copy, Debug)]
pub struct RedisLoad<'a> {
    /// Commands, as for `-t`.
    pub tests: &'a str,
    /// Parallel connections.
    pub clients: u32,
    /// Requests of each command.
    pub requests: u32,
    /// Usual port of the server.
    pub port: u16,
}

/// Runs `redis-benchmark`; one result for each command.
pub fn redis_benchmark(lab: &Lab, load: RedisLoad<'_>) -> Result<Vec<(String, Load)>> {
    let output = lab
        .cmd(Host::Client, "redis-benchmark")
        .args(&format!(
            "-h {} -p {} -t {} --csv",
            lab.address(),
            lab.port(load.port),
            load.tests
        ))
        .args(&format!("-c {} -n {}", load.clients, load.requests))
        .run(Duration::from_secs(60))?;
    read_redis(&output.stdout)
}

fn read_redis(csv: &str) -> Result<Vec<(String, Load)>> {
    let cells = |line: &str| -> Vec<String> {
        line.split(',')
            .map(|cell| cell.trim().trim_matches('"').to_owned())
            .collect()
    };
    let mut lines = csv.lines();
    let heading = lines
        .by_ref()
        .find(|line| line.contains("\"rps\""))
        .context("no CSV heading")?;
    let heading = cells(heading);
    let column = |name: &str| heading.iter().position(|cell| cell == name);
    let (rps, p50, p99) = (
        column("rps"),
        column("p50_latency_ms"),
        column("p99_latency_ms"),
    );
    let results: Vec<(String, Load)> = lines
        .filter_map(|line| {
            let row = cells(line);
            let number = |index: Option<usize>| row.get(index?)?.parse::<f64>().ok();
            let load = Load {
                per_second: number(rps)?,
                p50_us: number(p50)? * 1000.0,
                p99_us: number(p99)? * 1000.0,
            };
            Some((row.first()?.clone(), load))
        })
        .collect();
    ensure!(
        !results.is_empty(),
        "redis-benchmark reported nothing: {csv}"
    );
    Ok(results)
}

/// Runs `wrk` for some seconds. Socket errors and responses other than 2xx are an error.
pub fn wrk(lab: &Lab, connections: u32, seconds: u32, url: &str, header: &str) -> Result<Load> {
    let mut command = lab.cmd(Host::Client, "wrk").args(&format!(
        "-t2 -c{connections} -d{seconds}s --latency --timeout 10s"
    ));
    if !header.is_empty() {
        command = command.arg("-H").arg(header);
    }
    let output = command
        .arg(url)
        .run(Duration::from_secs(u64::from(seconds) + 30))?;
    read_wrk(&output.stdout)
}

fn read_wrk(report: &str) -> Result<Load> {
    ensure!(
        !report.contains("Socket errors"),
        "wrk met socket errors\n{report}"
    );
    ensure!(
        !report.contains("Non-2xx"),
        "wrk met failed requests\n{report}"
    );
    let value = |label: &str| {
        let line = report
            .lines()
            .find_map(|line| line.trim().strip_prefix(label));
        line.map(str::trim)
            .with_context(|| format!("wrk printed no {label:?}\n{report}"))
    };
    let load = Load {
        per_second: value("Requests/sec:")?.parse()?,
        p50_us: microseconds(value("50%")?)?,
        p99_us: microseconds(value("99%")?)?,
    };
    ensure!(load.per_second > 0.0, "wrk got no answer\n{report}");
    Ok(load)
}

/// `1.25ms`, `870.00us` or `1.02s` in microseconds.
fn microseconds(text: &str) -> Result<f64> {
    let number = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let scale = match &text[number.len()..] {
        "us" => 1.0,
        "ms" => 1e3,
        "s" => 1e6,
        "m" => 60e6,
        unit => anyhow::bail!("unknown unit {unit:?} in {text:?}"),
    };
    Ok(number.parse::<f64>()? * scale)
}

/// What an `iperf3` client saw.
#[derive(Clone, Copy, Debug)]
pub struct Iperf {
    /// What the receiver got, bits per second.
    pub received_bps: f64,
    /// Datagrams lost, percent (UDP only).
    pub lost_percent: f64,
}

/// Runs an `iperf3` client with these extra words (`-R`, `-P 4`, `-u -b 200M`).
pub fn iperf3(lab: &Lab, port: u16, seconds: u32, extra: &str) -> Result<Iperf> {
    let output = lab
        .cmd(Host::Client, "iperf3")
        .args(&format!("-c {SERVER} -p {port} -t {seconds} -J {extra}"))
        .output(Duration::from_secs(u64::from(seconds) + 20))?;
    let report = json(&output)?;
    if let Some(error) = report.get("error").and_then(Value::as_str) {
        anyhow::bail!("iperf3: {error}");
    }
    let end = report.get("end").context("iperf3: no result")?;
    let number = |group: &str, name: &str| end.get(group)?.get(name)?.as_f64();
    let (received_bps, lost_percent) = match number("sum_received", "bits_per_second") {
        Some(bps) => (bps, 0.0),
        None => {
            let bps = number("sum", "bits_per_second").context("iperf3: no sum")?;
            (bps, number("sum", "lost_percent").unwrap_or(0.0))
        }
    };
    ensure!(received_bps > 0.0, "iperf3: nothing was received");
    Ok(Iperf {
        received_bps,
        lost_percent,
    })
}

/// Runs `sockperf ping-pong`; latencies are of the round trip.
pub fn sockperf(lab: &Lab, port: u16, seconds: u32, tcp: bool) -> Result<Load> {
    let output = lab
        .cmd(Host::Client, "sockperf")
        .args(&format!(
            "ping-pong -i {SERVER} -p {port} -t {seconds} --msg-size 64 --full-rtt"
        ))
        .args(if tcp { "--tcp" } else { "" })
        .run(Duration::from_secs(u64::from(seconds) + 20))?;
    let report = output.stdout;
    let number = |label: &str, terminator: char| -> Result<f64> {
        let rest = report.split_once(label).map(|(_, rest)| rest);
        let rest = rest.with_context(|| format!("sockperf printed no {label:?}\n{report}"))?;
        let word = rest.trim_start_matches([' ', '=']).split(terminator).next();
        Ok(word.unwrap_or_default().trim().parse::<f64>()?)
    };
    ensure!(
        report.contains("# dropped messages = 0"),
        "sockperf: messages were dropped\n{report}"
    );
    let total = number("[Valid Duration] RunTime=", ' ')?;
    let messages = number("ReceivedMessages=", '\n').or_else(|_| number("ReceivedMessages=", ';'));
    Ok(Load {
        per_second: messages? / total,
        p50_us: number("percentile 50.000", '\n')?,
        p99_us: number("percentile 99.000", '\n')?,
    })
}

/// The JSON object that a program printed on standard output.
pub fn json(output: &Output) -> Result<Value> {
    let start = output.stdout.find('{').with_context(|| {
        format!(
            "{} printed no JSON: {}{}",
            output.name, output.stdout, output.stderr
        )
    })?;
    serde_json::from_str(&output.stdout[start..])
        .with_context(|| format!("{} printed bad JSON: {}", output.name, output.stdout))
}

/// A number in such an object.
pub fn number(value: &Value, name: &str) -> Result<f64> {
    value
        .get(name)
        .and_then(Value::as_f64)
        .with_context(|| format!("no {name} in {value}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redis_csv() {
        let csv = "\"test\",\"rps\",\"avg_latency_ms\",\"min_latency_ms\",\"p50_latency_ms\",\
                   \"p95_latency_ms\",\"p99_latency_ms\",\"max_latency_ms\"\n\
                   \"GET\",\"100000.00\",\"0.2\",\"0.1\",\"0.255\",\"0.3\",\"0.463\",\"1.0\"\n";
        let results = read_redis(csv).unwrap();
        assert_eq!(results[0].0, "GET");
        assert_eq!(results[0].1.p99_us, 463.0);
    }

    #[test]
    fn wrk_report() {
        let report = "  Latency Distribution\n     50%  513.00us\n     75%  1.00ms\n     \
                      90%  1.2ms\n     99%    1.39ms\n  1000 requests in 3.00s, 1.2MB read\n\
                      Requests/sec:  97062.40\nTransfer/sec:  1.2MB\n";
        let load = read_wrk(report).unwrap();
        assert_eq!((load.p50_us, load.p99_us), (513.0, 1390.0));
    }
}
