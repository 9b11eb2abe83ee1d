//! How long things took.

use std::time::Duration;

/// Sorted, in microseconds.
pub struct Latencies(Vec<u32>);

impl Latencies {
    pub fn of(durations: impl IntoIterator<Item = Duration>) -> Self {
        let micros = |duration: Duration| u32::try_from(duration.as_micros()).unwrap_or(u32::MAX);
        let mut sorted: Vec<u32> = durations.into_iter().map(micros).collect();
        sorted.sort_unstable();
        Self(sorted)
    }

    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// 0 if there are none.
    pub fn percentile_micros(&self, percent: f64) -> f64 {
        let last = self.count().saturating_sub(1);
        let index = (last as f64 * percent / 100.0) as usize;
        self.0.get(index).copied().unwrap_or(0).into()
    }
}

/// The middle one; 0 if there are none.
pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut all: Vec<f64> = values.into_iter().collect();
    all.sort_by(f64::total_cmp);
    all.get(all.len() / 2).copied().unwrap_or(0.0)
}
