//! What processes used, from `/proc`.

use anyhow::{Context, Result};

/// Processor time and memory of some processes together.
pub struct Usage {
    pub cpu_micros: f64,
    pub resident_bytes: u64,
}

impl Usage {
    /// # Errors
    /// If a process is gone.
    pub fn of(pids: impl Iterator<Item = u32>) -> Result<Self> {
        let ticks_per_second = rustix::param::clock_ticks_per_second() as f64;
        let page = rustix::param::page_size() as u64;
        let mut usage = Self {
            cpu_micros: 0.0,
            resident_bytes: 0,
        };
        for pid in pids {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
            // The name in parentheses may hold anything; what follows has fixed places.
            let (_, fields) = stat.rsplit_once(") ").context("no process name")?;
            let fields: Vec<&str> = fields.split(' ').collect();
            let ticks: f64 = fields[11].parse::<f64>()? + fields[12].parse::<f64>()?;
            usage.cpu_micros += ticks / ticks_per_second * 1e6;
            usage.resident_bytes += fields[21].parse::<u64>()? * page;
        }
        Ok(usage)
    }

    /// What was used since `before`; memory is as it is now.
    pub fn since(&self, before: &Self) -> Self {
        Self {
            cpu_micros: self.cpu_micros - before.cpu_micros,
            resident_bytes: self.resident_bytes,
        }
    }
}
