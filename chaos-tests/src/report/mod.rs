//! What is left of a run for people and for build servers: a page, a text, a list of test cases, a script.

pub mod campaign;
pub mod junit;
pub mod repro;
pub mod text;
pub mod totals;
pub mod words;

mod clients;
mod curves;
mod evidence;
mod logs;
mod page;
mod svg;
mod timeline;

#[cfg(test)]
pub(crate) mod example;

use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::check::growth::{self, Growth};
use crate::history::History;
use crate::run::{Run, write_json};
use crate::verdict::{Judgement, Verdict};
use totals::Totals;

/// What `verdict.json` holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// What was judged.
    #[serde(flatten)]
    pub verdict: Verdict,
    /// What the run amounts to.
    pub totals: Totals,
    /// What each member took of the host.
    #[serde(default)]
    pub growth: Vec<Growth>,
}

impl Summary {
    /// What a run comes to that was judged.
    pub fn of(verdict: Verdict, history: &History) -> Self {
        Self {
            verdict,
            totals: Totals::of(history),
            growth: growth::of(history),
        }
    }

    /// What a run comes to that nothing is left of, for this reason.
    pub fn without_verdict(why: String) -> Self {
        let mut harness = Judgement::new("harness", "Every run comes to a verdict.");
        harness.harness_errors.push(why);
        Self::of(Verdict::of(vec![harness], &[]), &History::default())
    }
}

/// Writes `verdict.json`, `junit.xml`, `repro.sh` and `report.html` into the directory of a run, over older ones.
///
/// # Errors
/// One of them cannot be written; it is named.
pub fn write(run: &Run, verdict: &Verdict) -> io::Result<()> {
    let summary = Summary::of(verdict.clone(), &run.history);
    let file = |name: &str| run.directory.join(name);
    write_json(&file("verdict.json"), &summary)?;
    put(
        &file("junit.xml"),
        &junit::file(&run.plan, verdict, &summary.totals),
    )?;
    put(
        &file("report.html"),
        &page::page(run, verdict, &summary.totals),
    )?;
    put(&file("repro.sh"), &repro::script(run))?;
    make_executable(&file("repro.sh"))
}

/// The verdict and the timeline for a terminal.
pub fn print(run: &Run, verdict: &Verdict) -> String {
    let timeline = text::timeline(&run.plan, &run.history, verdict);
    let judged = text::verdict(&run.plan, &run.history, verdict);
    format!("{timeline}\n{judged}")
}

fn put(path: &Path, text: &str) -> io::Result<()> {
    fs::write(path, text)
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
}

fn make_executable(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_leaves_everything_that_is_promised_and_can_be_read_again() {
        let directory = tempfile::tempdir().unwrap();
        let run = example::on_disk(directory.path());
        let verdict = example::verdict(&run.plan, &run.history);
        write(&run, &verdict).unwrap();
        for name in ["verdict.json", "junit.xml", "repro.sh", "report.html"] {
            assert!(directory.path().join(name).exists(), "no {name}");
        }
        let summary: Summary =
            crate::run::read_json(&directory.path().join("verdict.json")).unwrap();
        assert_eq!(summary.verdict, verdict);
        assert_eq!(
            summary.totals.operations(),
            run.history.operations.len() as u64
        );
        let judged: Verdict =
            crate::run::read_json(&directory.path().join("verdict.json")).unwrap();
        assert_eq!(judged, verdict);
    }

    #[test]
    #[ignore = "for people who change how a report looks: leaves one in the directory that CHAOS_SAMPLE names"]
    fn a_sample() {
        let directory = std::path::PathBuf::from(std::env::var_os("CHAOS_SAMPLE").unwrap());
        let run = example::on_disk(&directory);
        let verdict = example::verdict(&run.plan, &run.history);
        write(&run, &verdict).unwrap();
        fs::write(directory.join("report.txt"), print(&run, &verdict)).unwrap();
    }
}
