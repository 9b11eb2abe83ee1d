//! What shows a violation: its operations with requests and answers, the watchers, and the logs around it.

use std::collections::{BTreeMap, BTreeSet};

use maud::{Markup, html};

use crate::history::{History, Nanos, Operation, Outcome, Request, WatchStep};
use crate::report::logs::Logs;
use crate::report::timeline::{Effect, Lane, Role, Timeline};
use crate::report::{clients, svg, words};
use crate::run::Run;
use crate::verdict::{Judgement, Verdict, Violation};

/// The most violations that are shown with their evidence; the one after it stands for the rest.
pub const SHOWN_MAX: usize = 40;
/// The most operations of a violation that are listed.
const OPERATIONS_MAX: usize = 40;
/// The most operations that are drawn by their own scale of time.
const DRAWN_MAX: usize = 12;
/// The most violations that are shown with logs.
const LOGS_MAX: usize = 10;
/// The most steps of a watcher around a violation.
const STEPS_MAX: usize = 12;

/// An article for each violation, in the order of the verdict.
pub fn violations(run: &Run, verdict: &Verdict) -> Markup {
    let all: Vec<(&Judgement, &Violation)> = verdict
        .judgements
        .iter()
        .flat_map(|judgement| {
            judgement
                .violations
                .iter()
                .map(move |violation| (judgement, violation))
        })
        .collect();
    let logs = Logs::of(run);
    let operations: BTreeMap<u64, &Operation> = run
        .history
        .operations
        .iter()
        .map(|operation| (operation.id, operation))
        .collect();
    let timeline = Timeline::of(&run.plan, &run.history);
    let mut anchored = BTreeSet::new();
    let mut quoted = "";
    let articles: Vec<Markup> = all
        .iter()
        .take(SHOWN_MAX)
        .enumerate()
        .map(|(place, (judgement, violation))| {
            let mut shown: Vec<&Operation> =
                violation.operations.iter().filter_map(|id| operations.get(id).copied()).collect();
            if shown.is_empty() {
                shown = writers(&run.history, violation.revision);
            }
            let at = moment(violation, &run.history);
            // Once, above the first of many.
            let promise = if quoted == judgement.checker { "" } else { judgement.promise.as_str() };
            quoted = &judgement.checker;
            html! {
                article id=(format!("v{}", place + 1)) {
                    header {
                        span.number { (place + 1) }
                        h3 { (judgement.checker) }
                        span.soft {
                            @if let Some(at) = at { "at " (words::seconds(at)) }
                            @if let Some(revision) = violation.revision { " · revision " (revision) }
                            @if let Some(at) = at { " · " (then(&timeline, at)) }
                        }
                    }
                    p.what { (violation.what) }
                    @if !promise.is_empty() { blockquote { "“" (promise) "”" } }
                    (table(&shown, &mut anchored))
                    @for watcher in &violation.watchers { (watch(run, *watcher, violation, place == 0)) }
                    @if place < LOGS_MAX { (log(&logs, at)) }
                }
            }
        })
        .collect();
    html! {
        @for article in &articles { (article) }
        @if all.len() > SHOWN_MAX {
            article id=(format!("v{}", SHOWN_MAX + 1)) {
                p { (all.len() - SHOWN_MAX) " more are in verdict.json." }
            }
        }
    }
}

/// When a violation showed: as the checker says, or when the last of its operations returned.
pub fn moment(violation: &Violation, history: &History) -> Option<Nanos> {
    let returned = |id: &u64| {
        let place = history
            .operations
            .binary_search_by_key(id, |operation| operation.id);
        place.ok().map(|place| history.operations[place].returned)
    };
    violation
        .at
        .or_else(|| violation.operations.iter().filter_map(returned).max())
}

/// The operations that were answered to have made a revision: what a violation is about that names none.
fn writers(history: &History, revision: Option<i64>) -> Vec<&Operation> {
    let writes = |operation: &Operation| {
        matches!(
            operation.request,
            Request::Put(_) | Request::DeleteRange(_) | Request::Txn(_) | Request::LeaseRevoke(_)
        )
    };
    let answered = history.answered().filter(|(operation, answer)| {
        writes(operation) && Some(answer.header().revision) == revision
    });
    answered
        .map(|(operation, _)| operation)
        .take(DRAWN_MAX)
        .collect()
}

/// What was the matter at that time: who led, and which faults were in force or had just gone.
fn then(timeline: &Timeline<'_>, at: Nanos) -> String {
    const JUST: Nanos = 2_000_000_000;
    let leads = |lane: &&Lane| {
        lane.role(at)
            .is_some_and(|stretch| stretch.role == Role::Leader)
    };
    let mut told: Vec<String> = timeline
        .lanes
        .iter()
        .filter(leads)
        .map(|lane| format!("m{} led", lane.member))
        .collect();
    if told.is_empty() {
        told.push("nobody led".into());
    }
    for band in &timeline.bands {
        let skipped = matches!(band.effect, Effect::Skipped(_));
        if skipped || at < band.from || at > band.until + JUST {
            continue;
        }
        let gone = if at > band.until { " just gone" } else { "" };
        told.push(format!("{}{gone}", band.label()));
    }
    told.join(" · ")
}

fn table(operations: &[&Operation], anchored: &mut BTreeSet<u64>) -> Markup {
    if operations.is_empty() {
        return html! {};
    }
    let mut in_time = operations.to_vec();
    in_time.sort_by_key(|operation| (operation.called, operation.id));
    html! {
        @if (2..=DRAWN_MAX).contains(&in_time.len()) { (svg::close_up(&in_time)) }
        div.scroll {
            table {
                thead {
                    tr {
                        th { "operation" } th { "called" } th { "took" } th { "client" } th { "request" } th { "answer" }
                        th.n { "revision" }
                    }
                }
                tbody { @for operation in in_time.iter().take(OPERATIONS_MAX) { (row(operation, anchored)) } }
            }
        }
        @if in_time.len() > OPERATIONS_MAX {
            p.soft { (in_time.len() - OPERATIONS_MAX) " more operations are in verdict.json and history.jsonl." }
        }
    }
}

/// An operation. Only its first row can be linked to.
fn row(operation: &Operation, anchored: &mut BTreeSet<u64>) -> Markup {
    let id = anchored
        .insert(operation.id)
        .then(|| format!("op-{}", operation.id));
    let took = operation.returned.saturating_sub(operation.called);
    html! {
        tr id=[id] {
            td.tight {
                svg width="9" height="9" viewBox="0 0 9 9" style="display:inline-block;width:9px;margin-right:7px" {
                    rect class=(clients::class(&operation.outcome)) width="9" height="9" rx="2" {}
                }
                (operation.id)
            }
            td.tight { (words::seconds(operation.called)) }
            td.tight { (words::duration(took)) }
            td.tight { "c" (operation.client) " at m" (operation.member) }
            td { code { (words::request(&operation.request)) } }
            td { code { (words::outcome(&operation.outcome)) } }
            td.n { @if let Outcome::Ok(answer) = &operation.outcome { (answer.header().revision) } }
        }
    }
}

/// The steps of a watcher around a violation: those about its revision, or nearest to its time.
fn watch(run: &Run, watcher: u32, violation: &Violation, open: bool) -> Markup {
    let steps: Vec<&WatchStep> = run
        .history
        .watches
        .iter()
        .filter(|step| step.watcher == watcher)
        .collect();
    let at = match (violation.at, violation.revision) {
        (Some(at), _) => steps.partition_point(|step| step.at < at),
        (None, Some(revision)) => steps
            .iter()
            .position(|step| revision_of(step) >= revision)
            .unwrap_or(steps.len()),
        (None, None) => 0,
    };
    let from = at.saturating_sub(STEPS_MAX / 2);
    let to = (from + STEPS_MAX).min(steps.len());
    html! {
        @if let Some(first) = steps.first() {
            details open[open] {
                summary { "Watcher " (watcher) " of " (first.workload) " around it" }
                div.scroll {
                    table {
                        thead { tr { th { "when" } th { "member" } th { "step" } } }
                        tbody {
                            @for step in &steps[from..to] {
                                tr {
                                    td.tight { (words::seconds(step.at)) }
                                    td.tight { "m" (step.member) }
                                    td { code { (words::watch(&step.step)) } }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn revision_of(step: &WatchStep) -> i64 {
    match &step.step {
        crate::history::WatchEvent::Received(message) => {
            message.header.unwrap_or_default().revision
        }
        _ => 0,
    }
}

fn log(logs: &Logs, at: Option<Nanos>) -> Markup {
    let Some(at) = at else { return html! {} };
    let lines = logs.around(at);
    if lines.is_empty() {
        return html! {};
    }
    let now = lines.iter().position(|line| line.at >= at);
    html! {
        details {
            summary { "Logs of all members within two seconds, " (words::plural(lines.len(), "line")) }
            div.log.mono {
                @for (place, line) in lines.iter().enumerate() {
                    div.now[now == Some(place)] {
                        i { (words::seconds(line.at)) } span { "m" (line.member) } span { (line.text) }
                    }
                }
            }
        }
    }
}
