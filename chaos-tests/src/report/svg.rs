//! The timeline drawn: faults, members, clients, latency and throughput under one another, by one scale of time.

use std::collections::BTreeSet;

use maud::{Markup, html};

use crate::history::{History, Nanos, Operation};
use crate::plan::Plan;
use crate::report::evidence::{SHOWN_MAX, moment};
use crate::report::timeline::{Band, Effect, Family, Lane, Role, Timeline};
use crate::report::{clients, curves, words};
use crate::verdict::{Verdict, Violation};

/// The drawing's width.
pub const WIDTH: f64 = 1200.0;
/// Where time begins; labels stand left of it.
pub const LEFT: f64 = 118.0;
/// The width of time.
pub const PLOT: f64 = 1070.0;
/// A letter of a label, at most.
const LETTER: f64 = 6.3;
/// Marks of violations that would cover each other are drawn as one.
const FLAG: f64 = 40.0;

/// Time as a place from left to right.
#[derive(Debug, Clone, Copy)]
pub struct Scale {
    /// What the right edge stands for.
    pub end: Nanos,
}

impl Scale {
    /// Where a moment is.
    pub fn x(self, at: Nanos) -> f64 {
        LEFT + at.min(self.end) as f64 / self.end as f64 * PLOT
    }
}

/// A number as few digits as a drawing needs.
pub fn px(value: f64) -> String {
    let rounded = format!("{value:.1}");
    rounded
        .strip_suffix(".0")
        .map_or(rounded.clone(), ToOwned::to_owned)
}

/// Part of a drawing and how high it is.
pub type Part = (Markup, f64);

/// The whole timeline. Violations link to `#v1`, `#v2`, …, operations that show them to `#op-` and their id.
pub fn timeline(plan: &Plan, history: &History, verdict: &Verdict) -> Markup {
    let timeline = Timeline::of(plan, history);
    let scale = Scale { end: timeline.end };
    let violations: Vec<&Violation> = verdict
        .judgements
        .iter()
        .flat_map(|judgement| &judgement.violations)
        .collect();
    let shown: BTreeSet<u64> = violations
        .iter()
        .flat_map(|violation| violation.operations.iter().copied())
        .collect();
    let mut body = Vec::new();
    let top = 46.0;
    let mut y = top;
    let mut put = |(markup, height): Part| {
        if height > 0.0 {
            body.push(html! { g transform=(format!("translate(0 {})", px(y))) { (markup) } });
            y += height;
        }
    };
    put(faults(&timeline.bands, scale));
    for lane in &timeline.lanes {
        put(member(lane, &timeline, scale));
    }
    put((html! {}, 8.0));
    for group in &timeline.groups {
        put(clients::group(group, scale, &shown));
    }
    put(curves::latency(history, scale));
    put(curves::throughput(history, scale));
    let bottom = y;
    let height = px(bottom + 22.0);
    html! {
        svg.timeline viewBox=(format!("0 0 {} {height}", px(WIDTH))) role="img" aria-label="Timeline of the run"
            data-left=(px(LEFT)) data-plot=(px(PLOT)) data-end=(timeline.end) {
            defs { @for family in Family::ALL { (hatch(family)) } }
            (axis(&timeline, scale, top, bottom))
            @for part in &body { (part) }
            (flags(&violations, history, scale, bottom))
            g id="cursor" style="display:none" {
                line y1=(px(top)) y2=(px(bottom)) {}
                text y=(px(top - 4.0)) {}
            }
        }
    }
}

fn hatch(family: Family) -> Markup {
    html! {
        pattern id=(format!("hatch-{}", family.name())) class=(format!("f-{}", family.name())) width="5" height="5"
            patternUnits="userSpaceOnUse" patternTransform="rotate(45)" {
            line x1="0" y1="0" x2="0" y2="5" stroke="currentColor" stroke-width="2" {}
        }
    }
}

fn axis(timeline: &Timeline<'_>, scale: Scale, top: f64, bottom: f64) -> Markup {
    let second = 1_000_000_000;
    let step = [1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600]
        .into_iter()
        .map(|seconds: u64| seconds * second)
        .find(|step| timeline.end / step <= 14)
        .unwrap_or(7200 * second);
    let (from, to) = timeline.load;
    let calm = [(0, from), (to, timeline.end)];
    html! {
        @for (from, to) in calm {
            rect.calm x=(px(scale.x(from))) y=(px(top)) width=(px(scale.x(to) - scale.x(from)))
                height=(px(bottom - top)) { title { "before or after the load" } }
        }
        text.note x=(px(scale.x(from))) y=(px(top - 6.0)) { "load" }
        @if scale.x(timeline.end) - scale.x(to) > 110.0 {
            text.note x=(px(scale.x(to))) y=(px(top - 6.0)) { "healing and last looks" }
        }
        @for at in (0..=timeline.end).step_by(usize::try_from(step).unwrap_or(usize::MAX)) {
            @let x = px(scale.x(at));
            line.grid x1=(x) y1=(px(top)) x2=(x) y2=(px(bottom)) {}
            text.tick x=(x) y=(px(bottom + 14.0)) { (at / second) " s" }
        }
    }
}

/// Bands in as few rows as their labels allow.
fn faults(bands: &[Band], scale: Scale) -> Part {
    const ROW: f64 = 19.0;
    let mut rows: Vec<f64> = Vec::new();
    let mut drawn = Vec::new();
    for band in bands {
        let (from, until) = (scale.x(band.from), scale.x(band.until));
        let label = match band.effect {
            Effect::Skipped(_) => format!("{}, skipped", band.label()),
            Effect::Failed(_) => format!("{}, failed", band.label()),
            Effect::Unproved(_) | Effect::None => format!("{}, not proved", band.label()),
            Effect::Proved(_) => band.label(),
        };
        let width = label.chars().count() as f64 * LETTER;
        let inside = width + 8.0 <= until - from;
        let left = !inside && until + width + 6.0 > WIDTH;
        let (start, stop) = match (inside, left) {
            (true, _) => (from, until),
            (false, false) => (from, until + width + 6.0),
            (false, true) => (from - width - 6.0, until),
        };
        let row = rows
            .iter()
            .position(|end| *end <= start)
            .unwrap_or(rows.len());
        if row == rows.len() {
            rows.push(0.0);
        }
        rows[row] = stop + 6.0;
        let y = row as f64 * ROW;
        let (x, anchor) = match (inside, left) {
            (true, _) => (from + 6.0, "start"),
            (false, false) => (until + 5.0, "start"),
            (false, true) => (from - 5.0, "end"),
        };
        drawn.push(html! {
            g class=(format!("fault f-{}", band.family.name())) {
                (fault(band, scale, y))
                text.label x=(px(x)) y=(px(y + 11.5)) text-anchor=(anchor) { (label) }
            }
        });
    }
    let height = ROW * rows.len() as f64;
    if bands.is_empty() {
        return (html! {}, 0.0);
    }
    let markup = html! {
        text.lane x="0" y="12" { "faults" }
        @for band in &drawn { (band) }
    };
    (markup, height + 10.0)
}

/// A band: hatched until it is proved, full while in force, faint while it heals.
fn fault(band: &Band, scale: Scale, y: f64) -> Markup {
    let part = |class: &str, from: Nanos, until: Nanos| {
        let (from, until) = (scale.x(from), scale.x(until));
        html! {
            @if until > from {
                rect class=(class) x=(px(from)) y=(px(y)) width=(px((until - from).max(1.0))) height="16"
                    fill=[(class == "hatched").then(|| format!("url(#hatch-{})", band.family.name()))] {}
            }
        }
    };
    let healing = band.healing.unwrap_or(band.until);
    let proved = band.proved.map_or(healing, |proved| proved.min(healing));
    html! {
        @if let Effect::Skipped(_) = band.effect {
            rect.skipped x=(px(scale.x(band.from) - 1.5)) y=(px(y + 1.0)) width="3" height="14" {}
        } @else {
            (part("hatched", band.from, proved))
            (part("force", proved, healing))
            (part("healing", healing, band.until))
            rect.edge x=(px(scale.x(band.from))) y=(px(y)) width="2" height="16" {}
        }
        title { (tale(band)) }
    }
}

/// What a hover over a fault tells.
fn tale(band: &Band) -> String {
    let shown = match &band.effect {
        Effect::Proved(proof) => format!("proved: {proof}"),
        Effect::Unproved(why) => format!("not proved: {why}"),
        Effect::Skipped(why) => format!("skipped: {why}"),
        Effect::Failed(why) => format!("failed: {why}"),
        Effect::None => "never proved".into(),
    };
    let healed = band
        .healed
        .as_ref()
        .map(|proof| format!("\nhealed: {proof}"))
        .unwrap_or_default();
    let (from, until) = (words::seconds(band.from), words::seconds(band.until));
    format!("{}, {from} to {until}\n{shown}{healed}", band.label())
}

/// A member: which faults are about it, its role and term, and how far it has applied.
fn member(lane: &Lane, timeline: &Timeline<'_>, scale: Scale) -> Part {
    let most = timeline
        .lanes
        .iter()
        .flat_map(|lane| &lane.applied)
        .map(|(_, index)| *index)
        .max();
    let mut told = None;
    let mut terms = Vec::new();
    for stretch in &lane.stretches {
        if let Some(term) = stretch.term.filter(|term| told != Some(*term)) {
            let label = format!("term {term}");
            let short = term.to_string();
            let room = scale.x(stretch.until) - scale.x(stretch.from);
            let label = if room > 44.0 {
                Some(label)
            } else {
                (room > 12.0).then_some(short)
            };
            if let Some(label) = label {
                told = Some(term);
                terms.push((scale.x(stretch.from), stretch.role, label));
            }
        }
    }
    let markup = html! {
        text.lane x="0" y="18" { "m" (lane.member) }
        @for band in timeline.bands.iter().filter(|band| band.members.contains(&lane.member)) {
            @let (from, until) = (scale.x(band.from), scale.x(band.until));
            rect class=(format!("touched f-{}", band.family.name())) x=(px(from)) y="3"
                width=(px((until - from).max(1.0))) height="2.5" { title { (tale(band)) } }
        }
        @for stretch in &lane.stretches {
            @let (from, until) = (scale.x(stretch.from), scale.x(stretch.until));
            rect class=(format!("role {}", role(stretch.role))) x=(px(from)) y="7" width=(px(until - from)) height="14" {
                title {
                    "m" (lane.member) " " (role(stretch.role))
                    @if let Some(term) = stretch.term { ", term " (term) }
                    ", " (words::seconds(stretch.from)) " to " (words::seconds(stretch.until))
                }
            }
        }
        @for (x, kind, label) in &terms {
            text class=(format!("term {}", role(*kind))) x=(px(x + 4.0)) y="17.5" { (label) }
        }
        @if let Some(most) = most.filter(|most| *most > 0) {
            polyline.applied points=(points(lane, scale, most)) {
                title { "m" (lane.member) " applied up to index " (words::number(lane.applied.last().map_or(0, |(_, i)| *i))) }
            }
        }
        @for (at, status, expected) in &lane.ends {
            @let x = scale.x(*at);
            path class=(if *expected { "end" } else { "end unexpected" })
                d=(format!("M{} 10l8 8m0 -8l-8 8", px(x - 4.0))) {
                title {
                    "m" (lane.member) " ended at " (words::seconds(*at)) ": " (status)
                    @if !expected { ", and no fault explains it" }
                }
            }
        }
        @for at in &lane.starts {
            path.start d=(format!("M{} 9.5v9l7 -4.5z", px(scale.x(*at)))) {
                title { "m" (lane.member) " started at " (words::seconds(*at)) }
            }
        }
        @for (at, line) in &lane.alarming {
            circle.alarming cx=(px(scale.x(*at))) cy="14" r="4" { title { (words::seconds(*at)) ": " (line) } }
        }
    };
    (markup, 42.0)
}

fn role(role: Role) -> &'static str {
    match role {
        Role::Starting => "starting",
        Role::Follower => "follower",
        Role::Leader => "leader",
        Role::Silent => "silent",
        Role::Down => "down",
    }
}

fn points(lane: &Lane, scale: Scale, most: u64) -> String {
    // A point for each pixel at most: statuses come more often than that in long runs.
    let mut last = f64::MIN;
    let mut points = Vec::new();
    for (at, index) in &lane.applied {
        let x = scale.x(*at);
        if x >= last + 1.0 {
            points.push(format!(
                "{},{}",
                px(x),
                px(37.0 - *index as f64 / most as f64 * 12.0)
            ));
            last = x;
        }
    }
    points.join(" ")
}

/// Red marks where promises were broken, those at one place as one.
fn flags(violations: &[&Violation], history: &History, scale: Scale, bottom: f64) -> Markup {
    let mut places: Vec<(f64, usize, usize, &str)> = Vec::new();
    let mut marked: Vec<(usize, f64, &str)> = violations
        .iter()
        .enumerate()
        .filter_map(|(place, violation)| {
            Some((
                place + 1,
                scale.x(moment(violation, history)?),
                violation.what.as_str(),
            ))
        })
        .collect();
    marked.sort_by(|a, b| a.1.total_cmp(&b.1));
    for (number, x, what) in marked {
        match places.last_mut() {
            Some((last, _, count, _)) if x - *last < FLAG => *count += 1,
            _ => places.push((x, number, 1, what)),
        }
    }
    html! {
        @for (x, number, count, what) in &places {
            a.violation href=(format!("#v{}", number.min(&(SHOWN_MAX + 1)))) {
                line x1=(px(*x)) y1="19" x2=(px(*x)) y2=(px(bottom)) {}
                @let label = if *count == 1 { number.to_string() } else { format!("{number} +{}", count - 1) };
                @let width = 10.0 + LETTER * label.len() as f64;
                rect x=(px(x - width / 2.0)) y="2" width=(px(width)) height="17" rx="3" {}
                text x=(px(*x)) y="14" { (label) }
                title { (what) @if *count > 1 { " … and " (count - 1) " more here" } }
            }
        }
    }
}

/// A few operations by their own scale of time: which came before which, and which overlapped.
pub fn close_up(operations: &[&Operation]) -> Markup {
    const ROW: f64 = 22.0;
    let from = operations
        .iter()
        .map(|operation| operation.called)
        .min()
        .unwrap_or_default();
    let until = operations
        .iter()
        .map(|operation| operation.returned)
        .max()
        .unwrap_or_default();
    let margin = (until - from) / 20 + 1;
    let from = from.saturating_sub(margin);
    let scale = Scale {
        end: until + margin - from,
    };
    let height = ROW * operations.len() as f64 + 22.0;
    html! {
        svg.close-up viewBox=(format!("0 0 {} {}", px(WIDTH), px(height))) role="img"
            aria-label="The operations in time" {
            @for (row, operation) in operations.iter().enumerate() {
                @let y = ROW * row as f64;
                @let (x, to) = (scale.x(operation.called.saturating_sub(from)), scale.x(operation.returned.saturating_sub(from)));
                @let label = format!("{}  {}", operation.id, short(&words::request(&operation.request)));
                @let (place, anchor) = beside(x, to, &label);
                line.grid x1=(px(LEFT)) y1=(px(y + 10.0)) x2=(px(LEFT + PLOT)) y2=(px(y + 10.0)) {}
                text.lane x="0" y=(px(y + 14.0)) { "c" (operation.client) " at m" (operation.member) }
                rect class=(clients::class(&operation.outcome)) x=(px(x)) y=(px(y + 3.0)) width=(px((to - x).max(3.0)))
                    height="14" rx="2" {}
                text class=(anchor) x=(px(place)) y=(px(y + 14.0)) { (label) }
            }
            text.tick x=(px(LEFT)) y=(px(height - 6.0)) style="text-anchor:start" { (words::seconds(from)) }
            text.tick x=(px(LEFT + PLOT)) y=(px(height - 6.0)) style="text-anchor:end" { (words::seconds(from + scale.end)) }
        }
    }
}

/// Where a bar's label has room: after it, before it, or in it.
fn beside(from: f64, to: f64, label: &str) -> (f64, &'static str) {
    let width = label.chars().count() as f64 * LETTER;
    let to = to.max(from + 3.0);
    if to + width + 6.0 <= WIDTH {
        (to + 6.0, "after")
    } else if from - width - 6.0 >= LEFT {
        (from - 6.0, "before")
    } else {
        (from + 6.0, "within")
    }
}

fn short(text: &str) -> String {
    let cut: String = text.chars().take(72).collect();
    let dots = if cut.len() < text.len() { "…" } else { "" };
    cut + dots
}
