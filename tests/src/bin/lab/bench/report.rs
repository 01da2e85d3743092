//! Results of all runs: the table, the bars, JSON.

use std::collections::BTreeMap;

use flyover_e2e::machine;
use flyover_e2e::stats::Sample;
use flyover_e2e::table::{Table, short};
use serde_json::{Value, json};

use super::plan::{Better, Column, Plan, Row};

/// Values by row and column.
pub struct Results {
    plan: &'static Plan,
    values: BTreeMap<(&'static str, Column), Sample>,
}

impl Results {
    /// No values yet.
    pub fn new(plan: &'static Plan) -> Self {
        Self {
            plan,
            values: BTreeMap::new(),
        }
    }

    /// Adds one value.
    pub fn add(&mut self, column: Column, row: &'static str, value: f64) {
        self.values.entry((row, column)).or_default().push(value);
    }

    /// The median of a row in a column, if it was measured.
    pub fn median(&self, row: &str, column: Column) -> Option<f64> {
        let row = self.plan.rows.iter().find(|known| known.name == row)?.name;
        self.values.get(&(row, column))?.median()
    }

    /// The rows that have values, the explanation, the bars.
    pub fn to_text(&self, runs: u32) -> String {
        let mut headings = vec!["", "unit"];
        headings.extend(self.plan.columns.iter().map(|column| column.name()));
        let ratio = format!("{}/kernel", self.plan.compared.name());
        headings.push(&ratio);
        let (of_rows, alone): (Vec<Bar>, Vec<Bar>) = (self.plan.bars)(self)
            .into_iter()
            .partition(|bar| bar.row.is_some());
        if !of_rows.is_empty() {
            headings.extend(["bar", "measured", ""]);
        }
        let mut table = Table::new(&headings);
        for row in self.plan.rows {
            let cells: Vec<String> = self
                .plan
                .columns
                .iter()
                .map(|&column| self.cell(row, column))
                .collect();
            if cells.iter().all(String::is_empty) {
                continue;
            }
            let mut line = vec![row.name.to_owned(), row.unit.to_owned()];
            line.extend(cells);
            line.push(self.ratio(row));
            if let Some(bar) = of_rows.iter().find(|bar| bar.row == Some(row.name)) {
                line.extend([bar.name.to_owned(), short(bar.measured), bar.verdict()]);
            }
            table.row(line);
        }
        let mut text = format!(
            "{}\n{runs} runs: median ±half of the range\n\n",
            machine::description()
        );
        text.push_str(&table.render());
        text.push('\n');
        text.push_str(self.plan.legend);
        if !alone.is_empty() {
            let mut table = Table::new(&["bar", "measured", "limit", ""]);
            for bar in alone {
                table.row([
                    bar.name.to_owned(),
                    format!("{:.2}", bar.measured),
                    bar.limit_text(),
                    bar.verdict(),
                ]);
            }
            text.push('\n');
            text.push_str(&table.render());
        }
        text
    }

    fn cell(&self, row: &Row, column: Column) -> String {
        let Some(sample) = self.values.get(&(row.name, column)) else {
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
            self.median(row.name, self.plan.compared),
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
        for row in self.plan.rows {
            for &column in self.plan.columns {
                if let Some(sample) = self.values.get(&(row.name, column)) {
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
        let bars: Vec<Value> = (self.plan.bars)(self)
            .iter()
            .map(|bar| {
                json!({
                    "bar": bar.name,
                    "measurement": bar.row,
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
}

/// One promise and what was measured.
pub struct Bar {
    /// What it is about; of a bar that belongs to a row, only the limit.
    pub name: &'static str,
    /// The row in which it is shown; without one it is in a table of its own.
    pub row: Option<&'static str>,
    pub measured: f64,
    pub limit: f64,
    /// Whether the limit is a least or a most.
    pub better: Better,
}

impl Bar {
    fn is_met(&self) -> bool {
        match self.better {
            Better::Higher => self.measured >= self.limit,
            Better::Lower => self.measured <= self.limit,
        }
    }

    fn verdict(&self) -> String {
        if self.is_met() { "met" } else { "NOT MET" }.to_owned()
    }

    fn limit_text(&self) -> String {
        match self.better {
            Better::Higher => format!(">= {}", self.limit),
            Better::Lower => format!("<= {}", self.limit),
        }
    }
}
