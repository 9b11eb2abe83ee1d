//! The report: one page with everything in it, readable without a network.

use std::collections::BTreeMap;

use maud::{DOCTYPE, Markup, PreEscaped, html};

use crate::plan::Plan;
use crate::report::text::meaning;
use crate::report::timeline::{Band, Effect, Family, Timeline};
use crate::report::totals::{self, Totals};
use crate::report::{evidence, repro, svg, words};
use crate::run::{Made, Run};
use crate::verdict::{Judgement, Outcome, Verdict};

/// The whole page.
pub fn page(run: &Run, verdict: &Verdict, totals: &Totals) -> String {
    let any = verdict
        .judgements
        .iter()
        .any(|judgement| !judgement.violations.is_empty());
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (verdict.outcome) " · " (run.plan.name) }
                style { (PreEscaped(include_str!("style.css"))) }
            }
            body {
                (head(run, verdict, totals))
                h2 { "Timeline" }
                figure {
                    (svg::timeline(&run.plan, &run.history, verdict))
                    (legend(&Timeline::of(&run.plan, &run.history).bands))
                }
                @if any { h2 { "What was broken" } (evidence::violations(run, verdict)) }
                h2 { "What was examined" }
                @for judgement in &verdict.judgements { (checker(judgement)) }
                (gates(&run.plan, verdict))
                (faults(run))
                (again(run))
                footer { "chaos " (env!("CARGO_PKG_VERSION")) }
                script { (PreEscaped(include_str!("script.js"))) }
            }
        }
    };
    page.into_string()
}

fn class(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Valid => "is-valid",
        Outcome::Inconclusive => "is-inconclusive",
        Outcome::Invalid => "is-invalid",
        Outcome::HarnessError => "is-harness_error",
    }
}

fn head(run: &Run, verdict: &Verdict, totals: &Totals) -> Markup {
    let (how, version) = match &run.made {
        Made::Real {
            server, version, ..
        } => {
            let name = server.file_name().unwrap_or_default().to_string_lossy();
            (format!("real processes of {name}"), Some(version))
        }
        Made::Simulated => ("simulation".into(), None),
    };
    let seed = format!("seed {}", run.plan.seed);
    let class = class(verdict.outcome);
    html! {
        header {
            p.name {
                b { (run.plan.name) }
                @if !run.plan.name.contains(&seed) { span { (seed) } }
                span title=[version] { (how) }
            }
            h1 class=(class) { (verdict.outcome) }
            p.meaning { (meaning(verdict)) }
            p.soft { (words::plan(&run.plan)) }
            @if let Some(first) = verdict.first() {
                p class=(format!("first {class}")) {
                    span {
                        (first)
                        @if verdict.outcome == Outcome::Invalid { " " a href="#v1" { "Evidence" } }
                    }
                }
            }
            (numbers(run, verdict, totals))
        }
    }
}

fn numbers(run: &Run, verdict: &Verdict, totals: &Totals) -> Markup {
    let seconds = totals.duration_ms.max(1);
    let mut latencies: Vec<u64> = run
        .history
        .operations
        .iter()
        .filter_map(totals::latency)
        .collect();
    let median = totals::percentile(&mut latencies, 50).map_or("–".into(), words::duration);
    let tail = totals::percentile(&mut latencies, 99).map_or("–".into(), words::duration);
    let facts: u64 = verdict
        .judgements
        .iter()
        .flat_map(|judgement| judgement.facts.values())
        .sum();
    let violations: usize = verdict
        .judgements
        .iter()
        .map(|judgement| judgement.violations.len())
        .sum();
    let planned = run.plan.faults.len();
    let number = |name: &str, value: String, note: String| {
        html! { div { dt { (name) } dd { (value) small { (note) } } } }
    };
    html! {
        dl.totals {
            (number("operations", words::number(totals.operations()),
                format!("{} ok, {} failed, {} unknown", words::number(totals.ok), words::number(totals.failed), words::number(totals.unknown))))
            (number("ok per second", words::number(totals.ok * 1000 / seconds), format!("over {}", words::duration(totals.duration_ms * 1_000_000))))
            (number("latency", median, format!("p99 {tail}")))
            (number("watch events", words::number(totals.watch_events), String::new()))
            (number("faults proved", totals.faults().to_string(), format!("of {planned} planned")))
            (number("leader changes", totals.leader_changes.to_string(), words::plural(usize::try_from(totals.starts).unwrap_or(usize::MAX), "start")))
            (number("facts examined", words::number(facts), words::plural(verdict.judgements.len(), "checker")))
            (number("violations", violations.to_string(), String::new()))
        }
    }
}

fn legend(bands: &[Band]) -> Markup {
    let mut families: Vec<Family> = bands.iter().map(|band| band.family).collect();
    families.sort_unstable();
    families.dedup();
    let swatch = |class: &str, name: &str| {
        html! { span { svg viewBox="0 0 18 10" { rect class=(class) width="18" height="10" rx="1" {} } (name) } }
    };
    html! {
        div.legend {
            @for family in families {
                span class=(format!("fault f-{}", family.name())) {
                    svg viewBox="0 0 18 10" { rect.force width="18" height="10" {} rect.edge width="2" height="10" {} }
                    span.soft { (family.name()) }
                }
            }
            span.fault.f-code {
                svg viewBox="0 0 18 10" { rect.hatched width="18" height="10" fill="url(#hatch-code)" {} }
                span.soft { "not proved" }
            }
            span { svg viewBox="0 0 18 10" { path.start d="M5 .5v9l7 -4.5z" {} } "started" }
            span { svg viewBox="0 0 18 10" { path.end d="M5 1l8 8m0 -8l-8 8" {} } "ended" }
            span { svg viewBox="0 0 18 10" { polyline.applied points="0,8 10,3 18,2" {} } "applied index" }
            (swatch("role leader", "leader"))
            (swatch("role follower", "follower")) (swatch("role silent", "not heard of"))
            (swatch("ok", "ok")) (swatch("failed", "failed")) (swatch("unknown", "unknown"))
        }
    }
}

fn checker(judgement: &Judgement) -> Markup {
    let (class, state) = if !judgement.harness_errors.is_empty() {
        ("is-harness_error", "harness error")
    } else if !judgement.violations.is_empty() {
        ("is-invalid", "broken")
    } else if !judgement.inconclusive.is_empty() {
        ("is-inconclusive", "inconclusive")
    } else {
        ("is-valid", "held")
    };
    let broken = judgement.violations.len();
    html! {
        article.checker {
            div {
                h3 { (judgement.checker) }
                span class=(format!("state {class}")) {
                    span.dot {} (state)
                    @if broken > 0 { ", " (words::plural(broken, "violation")) }
                }
            }
            div {
                @if !judgement.promise.is_empty() { blockquote { "“" (judgement.promise) "”" } }
                @for why in &judgement.harness_errors { p.is-harness_error { (why) } }
                @for why in &judgement.inconclusive { p.why { (why) } }
                p.facts {
                    @for (fact, count) in &judgement.facts { span { b { (words::number(*count)) } " " (fact) } }
                    @if judgement.facts.is_empty() { span { "nothing examined" } }
                }
            }
        }
    }
}

fn gates(plan: &Plan, verdict: &Verdict) -> Markup {
    if plan.gates.is_empty() {
        return html! {};
    }
    let mut counted = BTreeMap::new();
    for judgement in &verdict.judgements {
        for (fact, count) in &judgement.facts {
            counted.insert(format!("{}/{fact}", judgement.checker), *count);
        }
    }
    html! {
        h2 id="gates" { "What had to be seen" }
        table {
            thead { tr { th { "fact" } th.n { "wanted" } th.n { "seen" } th { "" } } }
            tbody {
                @for gate in &plan.gates {
                    @let seen = counted.get(&gate.fact).copied().unwrap_or_default();
                    @let met = seen >= gate.at_least;
                    tr {
                        td { (gate.fact) }
                        td.n { (words::number(gate.at_least)) }
                        td.n { (words::number(seen)) }
                        td.tight {
                            span class=(if met { "state is-valid" } else { "state is-inconclusive" }) {
                                (if met { "enough" } else { "missed" })
                            }
                        }
                    }
                }
            }
        }
    }
}

fn faults(run: &Run) -> Markup {
    if run.plan.faults.is_empty() {
        return html! {};
    }
    let bands = Timeline::of(&run.plan, &run.history).bands;
    html! {
        h2 { "Faults" }
        div.scroll {
            table {
                thead { tr { th { "fault" } th { "members" } th { "from" } th { "to" } th { "state" } th { "what shows it" } } }
                tbody {
                    @for (place, planned) in run.plan.faults.iter().enumerate() {
                        @let band = bands.iter().find(|band| band.fault == place);
                        tr {
                            td { (words::fault(&planned.fault)) }
                            (outcome(band))
                        }
                    }
                }
            }
        }
    }
}

fn outcome(band: Option<&Band>) -> Markup {
    let Some(band) = band else {
        return html! { td {} td {} td {} td.tight { span.state.is-inconclusive { "not made" } } td {} };
    };
    let (class, state, why) = match &band.effect {
        Effect::Proved(proof) => ("is-valid", "proved", proof.as_str()),
        Effect::Unproved(why) => ("is-inconclusive", "not proved", why.as_str()),
        Effect::Skipped(why) => ("soft", "skipped", why.as_str()),
        Effect::Failed(why) => ("is-harness_error", "failed", why.as_str()),
        Effect::None => ("is-inconclusive", "not proved", ""),
    };
    let members: Vec<String> = band
        .members
        .iter()
        .map(|member| format!("m{member}"))
        .collect();
    html! {
        td.tight { (members.join(" ")) }
        td.tight { (words::seconds(band.from)) }
        td.tight { (words::seconds(band.until)) }
        td.tight { span class=(format!("state {class}")) { (state) } }
        td { (why) @if let Some(healed) = &band.healed { div.soft { "healed: " (healed) } } }
    }
}

fn again(run: &Run) -> Markup {
    let plan = serde_json::to_string_pretty(&run.plan).unwrap_or_default();
    html! {
        h2 { "Make it again" }
        p { "In the directory of this run:" }
        pre { "chaos " (repro::replay(&run.made)) "\nchaos shrink .\nchaos check ." }
        p.soft {
            @match run.made {
                Made::Real { .. } => "The plan is made again as it is. What real processes make of it differs from run to run.",
                Made::Simulated => "The same plan makes the same run.",
            }
        }
        details { summary { "The plan" } pre { (plan) } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::example;

    fn example_page() -> (Verdict, String) {
        let directory = tempfile::tempdir().unwrap();
        let run = example::on_disk(directory.path());
        let verdict = example::verdict(&run.plan, &run.history);
        let page = page(&run, &verdict, &Totals::of(&run.history));
        (verdict, page)
    }

    #[test]
    fn a_violation_is_marked_and_linked_with_its_operations_and_logs() {
        let (verdict, page) = example_page();
        assert!(page.contains("<a class=\"violation\" href=\"#v1\">"));
        assert!(page.contains("<article id=\"v1\">"));
        for operation in &verdict.judgements[1].violations[0].operations {
            assert!(
                page.contains(&format!("<a class=\"mark\" href=\"#op-{operation}\">")),
                "{operation}"
            );
            assert!(
                page.contains(&format!("<tr id=\"op-{operation}\">")),
                "{operation}"
            );
        }
        assert!(page.contains("of m3 &lt;b&gt;"), "no lines of the log");
    }

    #[test]
    fn keys_values_and_logs_cannot_put_markup_into_the_page() {
        let (_, page) = example_page();
        assert!(!page.contains(example::HARMFUL));
        assert!(page.contains("&lt;script&gt;alert('&amp;')&lt;/script&gt;"));
    }

    #[test]
    fn a_fault_is_hatched_until_it_is_proved_and_throughout_if_it_never_is() {
        let (_, page) = example_page();
        let drawing = drawing(&page);
        let document = roxmltree::Document::parse(drawing).expect("not XML");
        let parts = |label: &str| -> Vec<String> {
            let fault = document.descendants().find(|node| {
                node.attribute("class")
                    .is_some_and(|class| class.starts_with("fault"))
                    && node
                        .descendants()
                        .any(|text| text.text().is_some_and(|text| text == label))
            });
            let fault = fault.unwrap_or_else(|| panic!("no {label}"));
            fault
                .children()
                .filter(|node| node.has_tag_name("rect"))
                .filter_map(|node| node.attribute("class").map(ToOwned::to_owned))
                .collect()
        };
        assert_eq!(parts("isolate m1"), ["hatched", "force", "healing", "edge"]);
        assert_eq!(parts("delay, not proved"), ["hatched", "healing", "edge"]);
        assert_eq!(parts("power cut, skipped"), ["skipped"]);
    }

    #[test]
    fn the_page_asks_nothing_of_a_network() {
        let (_, page) = example_page();
        for way in ["src=", "@import", "url(http", "href=\"http", "fetch("] {
            assert!(!page.contains(way), "{way}");
        }
    }

    #[test]
    fn a_long_run_makes_no_larger_a_drawing() {
        let (plan, mut history) = example::run();
        let verdict = Verdict::of(Vec::new(), &[]);
        let size = |history: &crate::history::History| {
            svg::timeline(&plan, history, &verdict).into_string().len()
        };
        let short = size(&history);
        let more: Vec<_> = (0..20).flat_map(|_| history.operations.clone()).collect();
        history.operations.extend(more);
        assert!(size(&history) < 4 * short);
    }

    fn drawing(page: &str) -> &str {
        let from = page.find("<svg class=\"timeline\"").unwrap();
        let to = from + page[from..].find("</svg>").unwrap();
        &page[from..to + "</svg>".len()]
    }
}
