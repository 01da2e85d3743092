//! Results of all runs: the table, the bars, JSON.

use std::collections::BTreeMap;

use flyover_e2e::machine;
use flyover_e2e::stats::Sample;
use flyover_e2e::table::{Table, short};
use serde_json::{Value, json};

use super::plan::{Better, Column, ROWS, Row};

/// Values by row and column.
#[derive(Default)]
pub struct Results(BTreeMap<(&'static str, Column), Sample>);

impl Results {
    /// Adds one value.
    pub fn add(&mut self, column: Column, row: &'static str, value: f64) {
        self.0.entry((row, column)).or_default().push(value);
    }

    fn median(&self, row: &str, column: Column) -> Option<f64> {
        let row = ROWS.iter().find(|known| known.name == row)?.name;
        self.0.get(&(row, column))?.median()
    }

    /// The rows that have values, the explanation, the bars.
    pub fn to_text(&self, runs: u32) -> String {
        let mut headings = vec!["", "unit"];
        headings.extend(Column::ALL.iter().map(|column| column.name()));
        headings.push("both/kernel");
        let mut table = Table::new(&headings);
        for row in ROWS {
            let cells: Vec<String> = Column::ALL
                .iter()
                .map(|&column| self.cell(row, column))
                .collect();
            if cells.iter().all(String::is_empty) {
                continue;
            }
            let mut line = vec![row.name.to_owned(), row.unit.to_owned()];
            line.extend(cells);
            line.push(self.ratio(row));
            table.row(line);
        }
        let mut text = format!(
            "{}\n{runs} runs: median ±half of the range\n\n",
            machine::description()
        );
        text.push_str(&table.render());
        text.push_str(
            "\nkernel: cubic, both hosts. both, server, client: where Flyover runs; in streams the\n\
             client sends. both xdp: the V-NIC kind xdp. raw: frames without any protocol.\n\
             both/kernel: > 1 is better than the kernel.\n",
        );
        let bars = self.bars();
        if !bars.is_empty() {
            let mut table = Table::new(&["bar", "measured", "limit", ""]);
            for bar in bars {
                let verdict = if bar.is_met() { "met" } else { "NOT MET" };
                table.row([
                    bar.name.to_owned(),
                    format!("{:.2}", bar.measured),
                    bar.limit_text(),
                    verdict.to_owned(),
                ]);
            }
            text.push('\n');
            text.push_str(&table.render());
        }
        text
    }

    fn cell(&self, row: &Row, column: Column) -> String {
        let Some(sample) = self.0.get(&(row.name, column)) else {
            return String::new();
        };
        let (Some(median), spread) = (sample.median(), sample.spread_percent()) else {
            return String::new();
        };
        match spread {
            Some(spread) if sample.values().len() > 1 => format!("{} ±{spread:.0}%", short(median)),
            _ => short(median),
        }
    }

    fn ratio(&self, row: &Row) -> String {
        let (kernel, both) = (
            self.median(row.name, Column::Kernel),
            self.median(row.name, Column::Both),
        );
        match (kernel, both, row.better) {
            (Some(kernel), Some(both), Better::Higher) if kernel > 0.0 => {
                format!("{:.2}", both / kernel)
            }
            (Some(kernel), Some(both), Better::Lower) if both > 0.0 => {
                format!("{:.2}", kernel / both)
            }
            _ => String::new(),
        }
    }

    /// Everything as one JSON object.
    pub fn to_json(&self, runs: u32, failures: &[String]) -> Value {
        let mut rows = Vec::new();
        for row in ROWS {
            for column in Column::ALL {
                if let Some(sample) = self.0.get(&(row.name, column)) {
                    let range = sample.range().unwrap_or((0.0, 0.0));
                    rows.push(json!({
                        "measurement": row.name,
                        "unit": row.unit,
                        "configuration": column.name(),
                        "median": sample.median(),
                        "low": range.0,
                        "high": range.1,
                        "values": sample.values(),
                    }));
                }
            }
        }
        let bars: Vec<Value> = self
            .bars()
            .iter()
            .map(|bar| {
                json!({
                    "bar": bar.name,
                    "measured": bar.measured,
                    "limit": bar.limit,
                    "at_most": bar.better == Better::Lower,
                    "met": bar.is_met(),
                })
            })
            .collect();
        json!({
            "machine": machine::description(),
            "runs": runs,
            "results": rows,
            "bars": bars,
            "failures": failures,
        })
    }

    /// The promises of the project, as far as this run measured what they are about.
    fn bars(&self) -> Vec<Bar> {
        let median = |row, column| self.median(row, column);
        let over = |above: Option<f64>, below: Option<f64>| Some(above? / below?);
        let minus = |left: Option<f64>, right: Option<f64>| Some(left? - right?);
        let spinning = "TCP 64 B round trip, spinning, p50";
        let sleeping = "TCP 64 B round trip, sleeping, p50";
        let bulk = "stream, 64 KB writes";
        let redis = "redis GET -c 50";
        let (pipe, start) = ("pipe read, 1 B", "start and end of `true`");
        let idle = "1000 idle connections, CPU of one core";
        let slower = |row| {
            let times = over(median(row, Server), median(row, Kernel));
            Some((times? - 1.0) * 100.0)
        };
        use Better::{Higher, Lower};
        use Column::{Both, Client, Kernel, RawPacket, RawXdp, Server, Xdp};
        [
            (
                "round trip, spinning: packet / raw packet frames",
                over(median(spinning, Both), median(spinning, RawPacket)),
                1.3,
                Lower,
            ),
            (
                "round trip, spinning: xdp / raw xdp frames",
                over(median(spinning, Xdp), median(spinning, RawXdp)),
                1.3,
                Lower,
            ),
            (
                "round trip, spinning: packet / kernel",
                over(median(spinning, Both), median(spinning, Kernel)),
                0.8,
                Lower,
            ),
            (
                "round trip, sleeping: packet / kernel",
                over(median(sleeping, Both), median(sleeping, Kernel)),
                1.0,
                Lower,
            ),
            (
                "stream 64 KB, both: packet / kernel",
                over(median(bulk, Both), median(bulk, Kernel)),
                1.2,
                Higher,
            ),
            (
                "stream 64 KB, Flyover receives from the kernel / kernel",
                over(median(bulk, Server), median(bulk, Kernel)),
                1.0,
                Higher,
            ),
            (
                "stream 64 KB, Flyover sends to the kernel / kernel",
                over(median(bulk, Client), median(bulk, Kernel)),
                1.0,
                Higher,
            ),
            (
                "stream 64 KB, xdp / raw xdp frames",
                over(median(bulk, Xdp), median(bulk, RawXdp)),
                0.85,
                Higher,
            ),
            (
                "redis GET -c 50, both / kernel",
                over(median(redis, Both), median(redis, Kernel)),
                1.3,
                Higher,
            ),
            (
                "redis GET -c 50, server only / kernel",
                over(median(redis, Server), median(redis, Kernel)),
                1.0,
                Higher,
            ),
            (
                "pipe read through the library, ns added",
                minus(median(pipe, Server), median(pipe, Kernel)),
                20.0,
                Lower,
            ),
            (
                "flyover run true, ms added",
                minus(median(start, Server), median(start, Kernel)),
                15.0,
                Lower,
            ),
            (
                "fork without accelerated sockets, % slower",
                slower("fork, least"),
                5.0,
                Lower,
            ),
            (
                "exec without accelerated sockets, % slower",
                slower("fork and exec, least"),
                5.0,
                Lower,
            ),
            (
                "close without accelerated sockets, % slower",
                slower("close of a file, least"),
                5.0,
                Lower,
            ),
            (
                "1000 idle connections, % of a core",
                median(idle, Server),
                0.5,
                Lower,
            ),
        ]
        .into_iter()
        .filter_map(|(name, measured, limit, better)| {
            Some(Bar {
                name,
                measured: measured?,
                limit,
                better,
            })
        })
        .collect()
    }
}

/// One promise and what was measured.
struct Bar {
    name: &'static str,
    measured: f64,
    limit: f64,
    better: Better,
}

impl Bar {
    fn is_met(&self) -> bool {
        match self.better {
            Better::Higher => self.measured >= self.limit,
            Better::Lower => self.measured <= self.limit,
        }
    }

    fn limit_text(&self) -> String {
        match self.better {
            Better::Higher => format!(">= {}", self.limit),
            Better::Lower => format!("<= {}", self.limit),
        }
    }
}
