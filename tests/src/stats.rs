//! Medians, percentiles and spread.

/// The values of several runs of one measurement.
#[derive(Clone, Debug, Default)]
pub struct Sample(Vec<f64>);

impl Sample {
    /// Adds the value of one run.
    pub fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    /// All values, in the order of the runs.
    pub fn values(&self) -> &[f64] {
        &self.0
    }

    /// Was there no run at all?
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The median, `None` without a run.
    pub fn median(&self) -> Option<f64> {
        let sorted = self.sorted();
        let middle = sorted.len() / 2;
        match sorted.len() {
            0 => None,
            len if len % 2 == 1 => Some(sorted[middle]),
            _ => Some((sorted[middle - 1] + sorted[middle]) / 2.0),
        }
    }

    /// Smallest and largest value.
    pub fn range(&self) -> Option<(f64, f64)> {
        let sorted = self.sorted();
        Some((*sorted.first()?, *sorted.last()?))
    }

    /// Half of the range, in percent of the median.
    pub fn spread_percent(&self) -> Option<f64> {
        let ((low, high), median) = (self.range()?, self.median()?);
        (median != 0.0).then(|| (high - low) / 2.0 / median.abs() * 100.0)
    }

    fn sorted(&self) -> Vec<f64> {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        sorted
    }
}

/// Latencies of single operations, in nanoseconds.
#[derive(Clone, Debug, Default)]
pub struct Latencies(Vec<u64>);

impl Latencies {
    /// With room for this many, touched, so that no page fault is measured later.
    pub fn with_capacity(count: usize) -> Self {
        let mut touched = std::hint::black_box(vec![1; count]);
        touched.clear();
        Self(touched)
    }

    /// Adds one, in nanoseconds.
    pub fn push(&mut self, nanoseconds: u64) {
        self.0.push(nanoseconds);
    }

    /// Adds those of another thread.
    pub fn append(&mut self, mut other: Self) {
        self.0.append(&mut other.0);
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// `p50_ns`, `p99_ns`, `p999_ns`, `mean_ns` and `count` as a JSON object.
    pub fn to_json(&mut self) -> serde_json::Value {
        self.0.sort_unstable();
        let mean = self.0.iter().sum::<u64>() / (self.0.len().max(1) as u64);
        serde_json::json!({
            "count": self.0.len(),
            "mean_ns": mean,
            "p50_ns": self.percentile(50.0),
            "p99_ns": self.percentile(99.0),
            "p999_ns": self.percentile(99.9),
        })
    }

    /// Of sorted values; 0 without any.
    fn percentile(&self, percent: f64) -> u64 {
        let last = self.0.len().saturating_sub(1);
        let index = (last as f64 * percent / 100.0).round() as usize;
        self.0.get(index).copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_spread() {
        let mut sample = Sample::default();
        assert_eq!(sample.median(), None);
        for value in [3.0, 1.0, 2.0] {
            sample.push(value);
        }
        assert_eq!(sample.median(), Some(2.0));
        assert_eq!(sample.spread_percent(), Some(50.0));
        sample.push(4.0);
        assert_eq!(sample.median(), Some(2.5));
    }

    #[test]
    fn percentiles_of_a_hundred() {
        let mut latencies = Latencies::default();
        for value in 0..=100 {
            latencies.push(value);
        }
        let json = latencies.to_json();
        assert_eq!(
            (json["p50_ns"].as_u64(), json["p99_ns"].as_u64()),
            (Some(50), Some(99))
        );
    }
}
