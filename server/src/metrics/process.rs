//! What the operating system says of this process. Zeros where there is no `/proc`.

use std::fs;

use super::float;

/// Writes the current values into their gauges.
pub(super) fn write() {
    if let Some(stat) = Stat::read() {
        metrics::gauge!("process_cpu_seconds_total").set(stat.cpu_seconds);
        metrics::gauge!("process_resident_memory_bytes").set(stat.resident_bytes);
        metrics::gauge!("process_virtual_memory_bytes").set(stat.virtual_bytes);
        metrics::gauge!("process_start_time_seconds").set(stat.start_seconds);
    }
    if let Ok(open) = fs::read_dir("/proc/self/fd") {
        // One of them is this very listing.
        let open = u64::try_from(open.count().saturating_sub(1)).unwrap_or(0);
        metrics::gauge!("process_open_fds").set(float(open));
        metrics::gauge!("os_fd_used").set(float(open));
    }
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    if let Some(limit) = limit.current {
        metrics::gauge!("process_max_fds").set(float(limit));
        metrics::gauge!("os_fd_limit").set(float(limit));
    }
}

struct Stat {
    cpu_seconds: f64,
    resident_bytes: f64,
    virtual_bytes: f64,
    start_seconds: f64,
}

impl Stat {
    fn read() -> Option<Self> {
        let text = fs::read_to_string("/proc/self/stat").ok()?;
        // The name of the program may contain anything, also spaces and parentheses.
        let (_, after_name) = text.rsplit_once(')')?;
        let fields: Vec<&str> = after_name.split_whitespace().collect();
        // Fields are numbered from 1 in proc(5); `after_name` begins with the third.
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        let ticks_per_second = float(rustix::param::clock_ticks_per_second());
        let page_bytes = u64::try_from(rustix::param::page_size()).ok()?;
        Some(Self {
            cpu_seconds: float(field(14)? + field(15)?) / ticks_per_second,
            resident_bytes: float(field(24)? * page_bytes),
            virtual_bytes: float(field(23)?),
            start_seconds: boot_seconds()? + float(field(22)?) / ticks_per_second,
        })
    }
}

fn boot_seconds() -> Option<f64> {
    let text = fs::read_to_string("/proc/stat").ok()?;
    let boot = text.lines().find_map(|line| line.strip_prefix("btime "))?;
    boot.trim().parse().ok()
}
