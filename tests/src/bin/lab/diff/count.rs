//! How many cases were compared, in this process and in others.

use std::fmt;
use std::ops::Add;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use serde_json::{Value, json};

/// What is counted.
#[derive(Clone, Copy)]
pub enum What {
    Compared,
    Different,
    Known,
    /// On the local path: cases with connections that were accepted.
    Accepted,
    /// Of those the ones with pairs.
    Paired,
    /// The pairs.
    Pairs,
}

static COUNTS: [AtomicU32; 6] = [const { AtomicU32::new(0) }; 6];

/// Adds to one of the counts of this process.
pub fn add(what: What, n: u32) {
    COUNTS[what as usize].fetch_add(n, Relaxed);
}

/// All counts, in the order of [`What`].
#[derive(Clone, Copy, Default)]
pub struct Count([u32; 6]);

/// Those of this process.
pub fn count() -> Count {
    Count(COUNTS.each_ref().map(|counter| counter.load(Relaxed)))
}

impl Count {
    /// Was anything compared?
    pub fn any(&self) -> bool {
        self.0[What::Compared as usize] > 0
    }

    /// For another process.
    pub fn to_json(self) -> Value {
        json!(self.0)
    }

    /// From another process; what it does not say is 0.
    pub fn from_json(value: &Value) -> Self {
        let one = |i: usize| value[i].as_u64().and_then(|n| u32::try_from(n).ok());
        Self(std::array::from_fn(|i| one(i).unwrap_or(0)))
    }
}

impl Add for Count {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self(std::array::from_fn(|i| self.0[i] + other.0[i]))
    }
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [compared, different, known, accepted, paired, pairs] = self.0;
        write!(
            f,
            "{compared} cases compared, {different} differ, {known} more are known to differ"
        )?;
        if accepted > 0 {
            write!(
                f,
                "; {paired} of {accepted} with local connections had pairs, {pairs} in all"
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_of_two_processes_add_up() {
        let here = Count([3, 1, 0, 0, 0, 0]);
        let there = Count::from_json(&Count([4, 0, 2, 5, 4, 9]).to_json());
        assert_eq!((here + there).0, [7, 1, 2, 5, 4, 9]);
        assert!(!Count::from_json(&Value::Null).any());
    }
}
