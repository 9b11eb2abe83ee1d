//! Clients drawn: a row for each, coloured by what came of its operations, one colour a pixel.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use maud::{Markup, html};

use crate::history::{Nanos, Operation, Outcome};
use crate::report::svg::{LEFT, PLOT, Part, Scale, px};
use crate::report::timeline::{Bin, Group};
use crate::report::totals::percentile;
use crate::report::words;

/// The most rows of a workload; more clients are laid over each other.
const ROWS_MAX: usize = 24;
/// The height of a row, and from row to row.
const ROW: (f64, f64) = (4.0, 5.0);
/// The width of a place to hover over.
const HOVER: usize = 10;
/// The width of time in whole pixels.
const PIXELS: usize = 1070;

/// How an outcome is drawn.
pub fn class(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Ok(_) => "ok",
        Outcome::Failed(_) => "failed",
        Outcome::Unknown(_) => "unknown",
    }
}

/// The rows of a workload. Where several operations share a pixel, what is rarer shows.
pub fn group(group: &Group<'_>, scale: Scale, shown: &BTreeSet<u64>) -> Part {
    let count = group.rows.len().min(ROWS_MAX);
    let mut rows = vec![vec![0_u8; PIXELS]; count];
    let mut bins = vec![Bin::default(); PIXELS.div_ceil(HOVER)];
    let mut marks = Vec::new();
    for (place, operations) in group.rows.iter().enumerate() {
        let row = place % count;
        for operation in operations {
            let (from, to) = (
                pixel(scale, operation.called),
                pixel(scale, operation.returned),
            );
            let weight = match operation.outcome {
                Outcome::Ok(_) => 1,
                Outcome::Failed(_) => 2,
                Outcome::Unknown(_) => 3,
            };
            for cell in &mut rows[row][from..=to] {
                *cell = (*cell).max(weight);
            }
            bins[to / HOVER].add(operation);
            if shown.contains(&operation.id) {
                marks.push(mark(operation, row, scale));
            }
        }
    }
    let operations: usize = group.rows.iter().map(Vec::len).sum();
    let folded = group.rows.len() > ROWS_MAX;
    let height = count as f64 * ROW.1;
    let markup = html! {
        text.lane x="0" y="9" { (group.workload) }
        @if height > 18.0 {
            text.note x="0" y="22" { (words::number(operations.try_into().unwrap_or(u64::MAX))) " calls" }
        }
        @for (weight, class) in [(1, "ok"), (2, "failed"), (3, "unknown")] {
            path class=(class) d=(runs(&rows, weight)) {}
        }
        (hovers(group.workload, &mut bins, height, scale.end))
        @for mark in &marks { (mark) }
        @if folded {
            text.note x="0" y="34" { (group.rows.len()) " clients" }
        }
    };
    (markup, height.max(14.0) + 10.0)
}

/// The pixel of a moment.
fn pixel(scale: Scale, at: Nanos) -> usize {
    ((scale.x(at) - LEFT) as usize).min(PIXELS - 1)
}

/// One path for all stretches of one outcome.
fn runs(rows: &[Vec<u8>], weight: u8) -> String {
    let mut path = String::new();
    for (row, cells) in rows.iter().enumerate() {
        let mut from = 0;
        for stretch in cells.chunk_by(|a, b| a == b) {
            if stretch[0] == weight {
                let (x, y) = (LEFT + from as f64, row as f64 * ROW.1);
                let (width, height) = (stretch.len(), ROW.0);
                let _ = write!(path, "M{} {}h{width}v{height}h-{width}z", px(x), px(y));
            }
            from += stretch.len();
        }
    }
    path
}

fn mark(operation: &Operation, row: usize, scale: Scale) -> Markup {
    let (from, to) = (scale.x(operation.called), scale.x(operation.returned));
    html! {
        a.mark href=(format!("#op-{}", operation.id)) {
            rect x=(px(from - 2.0)) y=(px(row as f64 * ROW.1 - 2.0)) width=(px((to - from).max(1.0) + 4.0)) height=(px(ROW.0 + 4.0))
                rx="2" {}
            title { "operation " (operation.id) ": " (words::request(&operation.request)) }
        }
    }
}

fn hovers(workload: &str, bins: &mut [Bin], height: f64, end: Nanos) -> Markup {
    let span = |place: usize| end / PIXELS as u64 * (place * HOVER) as u64;
    html! {
        @for (place, bin) in bins.iter_mut().enumerate().filter(|(_, bin)| bin.all() > 0) {
            rect.hover x=(px(LEFT + (place * HOVER) as f64)) y="0" width=(HOVER) height=(px(height)) {
                title {
                    (workload) " " (words::seconds(span(place))) " to " (words::seconds(span(place + 1))) "\n"
                    (bin.ok) " ok"
                    @if bin.failed > 0 { ", " (bin.failed) " failed" }
                    @if bin.unknown > 0 { ", " (bin.unknown) " unknown" }
                    @if let Some(latency) = percentile(&mut bin.latencies, 99) { ", p99 " (words::duration(latency)) }
                }
            }
        }
    }
}

const _: () = assert!(PLOT as usize == PIXELS);
