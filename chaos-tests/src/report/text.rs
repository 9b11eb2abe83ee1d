//! The verdict and the timeline as text, for terminals and logs of builds.

use std::fmt::Write as _;

use tonic::Code;

use crate::history::{History, Nanos, Operation, Outcome};
use crate::plan::Plan;
use crate::report::timeline::{Band, Effect, Role, Timeline};
use crate::report::totals::Totals;
use crate::report::words;
use crate::verdict::Verdict;

/// A column of the timeline.
const COLUMN: Nanos = 500_000_000;
/// The most columns of a line; a longer run goes on below.
const COLUMNS_MAX: usize = 100;
/// The most operations that are named of a violation.
const OPERATIONS_MAX: usize = 10;
/// The most violations of a checker that are told.
const VIOLATIONS_MAX: usize = 10;

/// What a verdict means.
pub fn meaning(verdict: &Verdict) -> &'static str {
    use crate::verdict::Outcome as Verdict;
    match verdict.outcome {
        Verdict::Valid => "Every promise held, and enough was seen to say so.",
        Verdict::Invalid => "A promise was broken.",
        Verdict::Inconclusive => {
            "Nothing was seen to be broken, but too little was seen to say that all is well."
        }
        Verdict::HarnessError => {
            "The harness failed or contradicts itself. Nothing it says of the server counts until that is explained."
        }
    }
}

/// The verdict: a line for each checker with its facts, then what was broken, then what was not seen often enough.
pub fn verdict(plan: &Plan, history: &History, verdict: &Verdict) -> String {
    let totals = Totals::of(history);
    let mut out = String::new();
    let width = verdict
        .judgements
        .iter()
        .map(|judgement| judgement.checker.len())
        .max()
        .unwrap_or_default();
    for judgement in &verdict.judgements {
        let state = if !judgement.harness_errors.is_empty() {
            "ERROR"
        } else if !judgement.violations.is_empty() {
            "BROKEN"
        } else if !judgement.inconclusive.is_empty() {
            "unsure"
        } else {
            "held"
        };
        let facts: Vec<String> = judgement
            .facts
            .iter()
            .map(|(fact, count)| format!("{fact} {}", words::number(*count)))
            .collect();
        let facts = if facts.is_empty() {
            "nothing examined".into()
        } else {
            facts.join(", ")
        };
        let _ = writeln!(out, "  {:width$}  {state:6}  {facts}", judgement.checker);
    }
    for judgement in &verdict.judgements {
        let checker = &judgement.checker;
        for violation in judgement.violations.iter().take(VIOLATIONS_MAX) {
            let at = violation
                .at
                .map(|at| format!(" at {}", words::seconds(at)))
                .unwrap_or_default();
            let _ = write!(out, "BROKEN {checker}{at}: {}", violation.what);
            if !violation.operations.is_empty() {
                let all = violation.operations.iter().map(u64::to_string);
                let mut ids: Vec<String> = all.take(OPERATIONS_MAX).collect();
                if violation.operations.len() > OPERATIONS_MAX {
                    ids.push("…".to_owned());
                }
                let _ = write!(out, " (operations {})", ids.join(", "));
            }
            out.push('\n');
        }
        if let Some(more @ 1..) = judgement.violations.len().checked_sub(VIOLATIONS_MAX) {
            let _ = writeln!(out, "BROKEN {checker}: … and {more} more");
        }
        for why in &judgement.inconclusive {
            let _ = writeln!(out, "UNSURE {checker}: {why}");
        }
        for why in &judgement.harness_errors {
            let _ = writeln!(out, "HARNESS ERROR {checker}: {why}");
        }
    }
    for (gate, counted) in &verdict.missed {
        let _ = writeln!(
            out,
            "MISSED {}: {counted}, wanted {}",
            gate.fact, gate.at_least
        );
    }
    for (kind, count, why) in skipped(plan, history) {
        let _ = writeln!(out, "SKIPPED {count} × {kind}: {why}");
    }
    let _ = writeln!(
        out,
        "{} operations ({} ok, {} failed, {} unknown), {} watch events, {} faults proved, {} leader changes",
        words::number(totals.operations()),
        words::number(totals.ok),
        words::number(totals.failed),
        words::number(totals.unknown),
        words::number(totals.watch_events),
        totals.faults(),
        totals.leader_changes
    );
    let _ = writeln!(out, "{}  {}", verdict.outcome, meaning(verdict));
    out
}

/// Faults that could not be made, by kind and reason, and how often.
fn skipped(plan: &Plan, history: &History) -> Vec<(String, usize, String)> {
    let mut skipped: Vec<(String, usize, String)> = Vec::new();
    for band in Timeline::of(plan, history).bands {
        let Effect::Skipped(why) = band.effect else {
            continue;
        };
        let kind = words::spaced(&band.kind);
        match skipped
            .iter_mut()
            .find(|(known, _, reason)| *known == kind && *reason == why)
        {
            Some((_, count, _)) => *count += 1,
            None => skipped.push((kind, 1, why)),
        }
    }
    skipped
}

/// The timeline: a column for each half second; faults, who leads, and how the clients of each member fared.
pub fn timeline(plan: &Plan, history: &History, verdict: &Verdict) -> String {
    let timeline = Timeline::of(plan, history);
    let columns = column(timeline.end) + 1;
    let mut rows: Vec<(String, Vec<char>)> = Vec::new();
    for band in &timeline.bands {
        rows.push((
            band.label(),
            (0..columns).map(|c| band_cell(band, c)).collect(),
        ));
    }
    rows.push((
        "leader".into(),
        (0..columns).map(|c| leader_cell(&timeline, c)).collect(),
    ));
    for lane in &timeline.lanes {
        let mut calls: Vec<Vec<&Operation>> = vec![Vec::new(); columns];
        for operation in history
            .operations
            .iter()
            .filter(|o| o.member == lane.member)
        {
            calls[column(operation.called)].push(operation);
        }
        let cells = calls.iter().map(|calls| calls_cell(calls)).collect();
        rows.push((format!("m{}", lane.member), cells));
    }
    let mut violated = vec![' '; columns];
    for violation in verdict
        .judgements
        .iter()
        .flat_map(|judgement| &judgement.violations)
    {
        if let Some(at) = violation.at {
            violated[column(at).min(columns - 1)] = '!';
        }
    }
    if violated.contains(&'!') {
        rows.push(("violation".into(), violated));
    }
    let width = rows
        .iter()
        .map(|(label, _)| label.chars().count())
        .max()
        .unwrap_or_default()
        .max(8);
    let mut out = String::from(
        "one column is 0.5 s; calls: . under 50 ms, o under 300 ms, O slower, x some without answer, X all\n\
         faults: ? not proved, = in force, ~ healing; leader: its number, * two of them, _ none\n",
    );
    for from in (0..columns).step_by(COLUMNS_MAX) {
        let to = (from + COLUMNS_MAX).min(columns);
        let _ = writeln!(out, "{:width$}  {}", "seconds", scale(from, to).trim_end());
        for (label, cells) in &rows {
            let line: String = cells[from..to].iter().collect();
            if !line.trim().is_empty() {
                let _ = writeln!(out, "{label:width$}  {}", line.trim_end());
            }
        }
    }
    out
}

fn column(at: Nanos) -> usize {
    usize::try_from(at / COLUMN).unwrap_or(usize::MAX)
}

/// The span of a column.
fn span(column: usize) -> (Nanos, Nanos) {
    let from = u64::try_from(column).unwrap_or(u64::MAX) * COLUMN;
    (from, from + COLUMN)
}

fn scale(from: usize, to: usize) -> String {
    let mut line = String::new();
    for mark in (from..to).step_by(10) {
        let _ = write!(line, "{:<10}", mark / 2);
    }
    line
}

fn band_cell(band: &Band, column: usize) -> char {
    let (from, to) = span(column);
    if band.from >= to || band.until < from {
        return ' ';
    }
    match (&band.effect, band.proved, band.healing) {
        (Effect::Skipped(_), _, _) => '-',
        (Effect::Failed(_), _, _) => '#',
        (_, None, _) => '?',
        (_, Some(proved), _) if proved >= to => '?',
        (_, _, Some(healing)) if healing < from => '~',
        _ => '=',
    }
}

fn leader_cell(timeline: &Timeline<'_>, column: usize) -> char {
    let (from, to) = span(column);
    let leads = |lane: &&crate::report::timeline::Lane| {
        lane.role(from + (to - from) / 2)
            .is_some_and(|stretch| stretch.role == Role::Leader)
    };
    let mut leaders = timeline.lanes.iter().filter(leads);
    match (leaders.next(), leaders.next()) {
        (None, _) => '_',
        (Some(lane), None) => {
            char::from_digit(u32::try_from(lane.member).unwrap_or_default(), 36).unwrap_or('+')
        }
        (Some(_), Some(_)) => '*',
    }
}

fn calls_cell(calls: &[&Operation]) -> char {
    let unanswered = calls
        .iter()
        .filter(|operation| !answered(&operation.outcome))
        .count();
    if calls.is_empty() {
        return ' ';
    }
    if unanswered == calls.len() {
        return 'X';
    }
    if unanswered > 0 {
        return 'x';
    }
    let slowest = calls
        .iter()
        .filter_map(|operation| crate::report::totals::latency(operation))
        .max();
    match slowest.unwrap_or_default() {
        0..50_000_000 => '.',
        50_000_000..300_000_000 => 'o',
        _ => 'O',
    }
}

/// Whether the member did answer, if only to refuse: what is refused for what the state is shows a member at work.
fn answered(outcome: &Outcome) -> bool {
    match outcome {
        Outcome::Ok(_) => true,
        Outcome::Failed(error) => !matches!(
            Code::from_i32(error.code),
            Code::Unavailable | Code::ResourceExhausted
        ),
        Outcome::Unknown(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::example;

    fn rows(text: &str, label: &str) -> String {
        let line = text.lines().find(|line| line.starts_with(label));
        line.unwrap_or_else(|| panic!("no {label} in\n{text}"))
            .to_owned()
    }

    #[test]
    fn a_fault_is_doubtful_until_it_is_proved_and_then_in_force_until_it_heals() {
        let (plan, history) = example::run();
        let text = timeline(&plan, &history, &example::verdict(&plan, &history));
        let isolate = rows(&text, "isolate m1");
        assert!(
            isolate
                .trim_start_matches("isolate m1")
                .trim()
                .starts_with("=="),
            "{text}"
        );
        let delay = rows(&text, "delay");
        assert!(delay.contains("???") && !delay.contains('='), "{text}");
    }

    #[test]
    fn clients_of_a_member_that_is_cut_off_get_no_answer_while_it_lasts() {
        let (plan, history) = example::run();
        let text = timeline(&plan, &history, &example::verdict(&plan, &history));
        let member = rows(&text, "m1 ");
        assert!(member.contains("XXXXXXX"), "{text}");
        assert!(member.trim_end().ends_with('.'), "{text}");
        assert_eq!(rows(&text, "violation").matches('!').count(), 1);
    }

    #[test]
    fn the_verdict_tells_facts_then_violations_then_gates_that_were_missed() {
        let (plan, history) = example::run();
        let text = verdict(&plan, &history, &example::verdict(&plan, &history));
        let place = |part: &str| {
            text.find(part)
                .unwrap_or_else(|| panic!("no {part:?} in\n{text}"))
        };
        assert!(place("real-time edges 44 120") < place("BROKEN real_time at"));
        assert!(place("BROKEN real_time at") < place("MISSED leaders/changes: 2, wanted 3"));
        assert!(place("MISSED") < place("SKIPPED 1 × power cut: no loop devices on this host"));
        assert!(place("SKIPPED") < place("INVALID  A promise was broken."));
    }
}
