//! The verdict in the form that build servers read: a test case for each checker, and one for the gates.

use maud::{Markup, PreEscaped, html};

use crate::plan::Plan;
use crate::report::text::meaning;
use crate::report::totals::Totals;
use crate::verdict::{Judgement, Verdict};

/// The whole file.
pub fn file(plan: &Plan, verdict: &Verdict, totals: &Totals) -> String {
    let broken = |judgement: &&Judgement| !judgement.violations.is_empty();
    let unsure = |judgement: &&Judgement| {
        !judgement.inconclusive.is_empty() || !judgement.harness_errors.is_empty()
    };
    let failures = verdict.judgements.iter().filter(broken).count();
    let errors = verdict
        .judgements
        .iter()
        .filter(|j| !broken(j))
        .filter(unsure)
        .count();
    let seconds = format!(
        "{}.{:03}",
        totals.duration_ms / 1000,
        totals.duration_ms % 1000
    );
    let name = clean(&plan.name);
    let suite = html! {
        testsuites {
            testsuite name=(name) tests=(verdict.judgements.len() + 1) failures=(failures)
                errors=(errors + usize::from(!verdict.missed.is_empty())) time=(seconds) {
                @for judgement in &verdict.judgements { (case(&name, judgement)) }
                testcase classname=(name) name="gates" time="0" {
                    @if !verdict.missed.is_empty() {
                        error type="inconclusive" message="too little was seen" {
                            @for (gate, counted) in &verdict.missed {
                                (clean(&gate.fact)) ": " (counted) ", wanted " (gate.at_least) "\n"
                            }
                        }
                    }
                    system-out { (verdict.outcome) ". " (meaning(verdict)) }
                }
            }
        }
    };
    html! { (PreEscaped("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n")) (suite) "\n" }
        .into_string()
}

/// A checker; one state is told, the gravest.
fn case(suite: &str, judgement: &Judgement) -> Markup {
    html! {
        testcase classname=(suite) name=(clean(&judgement.checker)) time="0" {
            @if let Some(first) = judgement.violations.first() {
                failure type="violation" message=(clean(&first.what)) {
                    @for violation in &judgement.violations {
                        (clean(&violation.what)) " (operations " (format!("{:?}", violation.operations)) ")\n"
                    }
                }
            } @else if let Some(first) = judgement.harness_errors.first() {
                error type="harness" message=(clean(first)) {
                    (clean(&judgement.harness_errors.join("\n")))
                }
            } @else if let Some(first) = judgement.inconclusive.first() {
                error type="inconclusive" message=(clean(first)) {
                    (clean(&judgement.inconclusive.join("\n")))
                }
            }
            system-out {
                (clean(&judgement.promise)) "\n"
                @for (fact, count) in &judgement.facts { (clean(fact)) ": " (count) "\n" }
            }
        }
    }
}

/// Without what XML cannot hold, however it is written.
fn clean(text: &str) -> String {
    let held = |c: char| !matches!(c, '\0'..='\u{8}' | '\u{b}' | '\u{c}' | '\u{e}'..='\u{1f}' | '\u{fffe}' | '\u{ffff}');
    text.chars()
        .map(|c| if held(c) { c } else { '\u{fffd}' })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::example;
    use crate::verdict::Violation;

    #[test]
    fn it_is_xml_with_a_case_for_each_checker_whatever_keys_and_values_hold() {
        let (mut plan, history) = example::run();
        plan.name = "a <plan> & \"more\"\u{1}".into();
        let mut judged = example::verdict(&plan, &history);
        judged.judgements[0].violated(Violation::new(format!("{}\u{0}\u{1b}", example::HARMFUL)));
        judged.judgements[2]
            .inconclusive
            .push("out of budget".into());
        let text = file(&plan, &judged, &Totals::of(&history));
        let document = roxmltree::Document::parse(&text).expect("not XML");
        let named = |name: &'static str| {
            document
                .descendants()
                .filter(move |node| node.has_tag_name(name))
        };
        assert_eq!(named("testcase").count(), judged.judgements.len() + 1);
        assert_eq!(named("failure").count(), 2);
        assert_eq!(named("error").count(), 2);
        let suite = named("testsuite").next().unwrap();
        assert_eq!(suite.attribute("failures"), Some("2"));
        assert_eq!(suite.attribute("errors"), Some("2"));
    }
}
