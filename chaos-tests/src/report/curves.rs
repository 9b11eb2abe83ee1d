//! Latency and throughput drawn.

use std::fmt::Write as _;

use maud::html;

use crate::history::{History, Nanos, Outcome};
use crate::report::svg::{LEFT, PLOT, Part, Scale, px};
use crate::report::totals::{latency as took, percentile};
use crate::report::words;

/// How many points a curve has.
const POINTS: usize = 134;

/// The median and the ninety-ninth of a hundred, on a scale of powers of ten.
pub fn latency(history: &History, scale: Scale) -> Part {
    const HEIGHT: f64 = 84.0;
    let mut bins = vec![Vec::new(); POINTS];
    for operation in &history.operations {
        if let Some(latency) = took(operation) {
            bins[bin(scale, operation.returned)].push(latency);
        }
    }
    let highest = bins.iter().flatten().max().copied().unwrap_or(1);
    let (low, high) = (100_000_u64, highest.max(10_000_000).saturating_mul(2));
    let y = |nanos: Nanos| HEIGHT - log(nanos.max(low), low, high) * HEIGHT;
    let mut curves = [String::new(), String::new()];
    for (curve, percent) in curves.iter_mut().zip([50, 99]) {
        let values = bins.iter_mut().map(|bin| percentile(bin, percent).map(y));
        *curve = line(&values.collect::<Vec<_>>());
    }
    let [median, tail] = curves;
    let powers: Vec<Nanos> = (0..7)
        .map(|power| low * 10_u64.pow(power))
        .filter(|power| (low + 1..high).contains(power))
        .collect();
    let markup = html! {
        text.lane x="0" y="9" { "latency" }
        text.note x="0" y="23" { tspan.p50 { "p50" } " " tspan.p99 { "p99" } }
        @for power in &powers {
            line.grid x1=(px(LEFT)) y1=(px(y(*power))) x2=(px(LEFT + PLOT)) y2=(px(y(*power))) {}
            text.scale x=(px(LEFT - 6.0)) y=(px(y(*power) + 3.5)) { (power_name(*power)) }
        }
        path.p99 d=(tail) {}
        path.p50 d=(median) {}
    };
    (markup, HEIGHT + 18.0)
}

/// Operations done in a second.
pub fn throughput(history: &History, scale: Scale) -> Part {
    const HEIGHT: f64 = 46.0;
    let mut bins = vec![0_u32; POINTS];
    for operation in &history.operations {
        if matches!(operation.outcome, Outcome::Ok(_)) {
            bins[bin(scale, operation.returned)] += 1;
        }
    }
    let most = bins.iter().copied().max().unwrap_or_default().max(1);
    let mut area = format!("M{} {HEIGHT}", px(LEFT));
    for (place, count) in bins.iter().enumerate() {
        let _ = write!(
            area,
            "L{} {}",
            px(x(place)),
            px(HEIGHT - f64::from(*count) / f64::from(most) * HEIGHT)
        );
    }
    let _ = write!(area, "L{} {HEIGHT}z", px(LEFT + PLOT));
    let bins_per_second = POINTS as f64 * 1e9 / scale.end as f64;
    let peak = format!("{:.0}", f64::from(most) * bins_per_second);
    let markup = html! {
        text.lane x="0" y="9" { "ok per second" }
        line.grid x1=(px(LEFT)) y1="0" x2=(px(LEFT + PLOT)) y2="0" {}
        text.scale x=(px(LEFT - 6.0)) y="3.5" dy="14" { (words::number(peak.parse().unwrap_or_default())) }
        path.throughput d=(area) {}
    };
    (markup, HEIGHT + 6.0)
}

fn bin(scale: Scale, at: Nanos) -> usize {
    let place = u128::from(at) * POINTS as u128 / u128::from(scale.end);
    usize::try_from(place).unwrap_or(usize::MAX).min(POINTS - 1)
}

/// The middle of a bin.
fn x(place: usize) -> f64 {
    LEFT + (place as f64 + 0.5) * PLOT / POINTS as f64
}

fn log(value: u64, low: u64, high: u64) -> f64 {
    ((value as f64 / low as f64).ln() / (high as f64 / low as f64).ln()).clamp(0.0, 1.0)
}

/// A line that breaks where there is no value; a value alone is a dash.
fn line(values: &[Option<f64>]) -> String {
    let mut path = String::new();
    let mut before = false;
    for (place, y) in values.iter().enumerate() {
        if let Some(y) = y {
            let _ = match before {
                true => write!(path, "L{} {}", px(x(place)), px(*y)),
                false => write!(path, "M{} {}h.1", px(x(place)), px(*y)),
            };
        }
        before = y.is_some();
    }
    path
}

fn power_name(nanos: Nanos) -> String {
    match nanos {
        0..1_000_000 => format!("{} µs", nanos / 1000),
        1_000_000..1_000_000_000 => format!("{} ms", nanos / 1_000_000),
        _ => format!("{} s", nanos / 1_000_000_000),
    }
}
