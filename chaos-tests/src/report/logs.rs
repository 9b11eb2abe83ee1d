//! Lines of the members' logs around a moment of the run.

use std::fs;
use std::time::UNIX_EPOCH;

use crate::history::{Member, Nanos};
use crate::run::{Made, Run};

/// How far around a moment lines are shown.
const AROUND: Nanos = 2_000_000_000;
/// The most lines around one moment; those nearest to it are kept.
const LINES_MAX: usize = 300;

/// A line of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// When it was written, by the clock of the run.
    pub at: Nanos,
    /// By whom.
    pub member: Member,
    /// The line.
    pub text: String,
}

/// The logs of all members, by time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Logs {
    lines: Vec<Line>,
}

impl Logs {
    /// Reads the logs that there are. A line without a time belongs to the one before it.
    pub fn of(run: &Run) -> Self {
        let Made::Real { began_unix_us, .. } = run.made else {
            return Self::default();
        };
        let mut lines = Vec::new();
        for member in 1..=run.plan.members {
            let log = fs::read(run.log(member)).unwrap_or_default();
            let mut at = 0;
            for text in String::from_utf8_lossy(&log).lines() {
                if let Some(stamp) = stamp(text) {
                    at = stamp.saturating_sub(began_unix_us) * 1000;
                }
                lines.push(Line {
                    at,
                    member,
                    text: text.to_owned(),
                });
            }
        }
        lines.sort_by_key(|line| line.at);
        Self { lines }
    }

    /// Lines within two seconds of a moment.
    pub fn around(&self, at: Nanos) -> &[Line] {
        let from = self
            .lines
            .partition_point(|line| line.at < at.saturating_sub(AROUND));
        let to = self.lines.partition_point(|line| line.at <= at + AROUND);
        let lines = self.lines.get(from..to).unwrap_or_default();
        let before = lines.partition_point(|line| line.at < at);
        let first = before
            .saturating_sub(LINES_MAX / 2)
            .min(lines.len().saturating_sub(LINES_MAX));
        lines
            .get(first..lines.len().min(first + LINES_MAX))
            .unwrap_or_default()
    }
}

/// The time in a line, in microseconds since 1970: the first that looks like `2026-01-02T03:04:05.678Z`.
fn stamp(line: &str) -> Option<u64> {
    const SHAPE: &[u8] = b"dddd-dd-ddTdd:dd:dd";
    let fits = |window: &[u8]| {
        window.iter().zip(SHAPE).all(|(byte, shape)| match shape {
            b'd' => byte.is_ascii_digit(),
            b'T' => matches!(byte, b'T' | b' '),
            other => byte == other,
        })
    };
    let bytes = line.as_bytes();
    let from = bytes.windows(SHAPE.len()).take(200).position(fits)?;
    let rest = &bytes[from + SHAPE.len()..];
    let fraction = match rest.split_first() {
        Some((b'.', digits)) => {
            1 + digits
                .iter()
                .take(9)
                .take_while(|byte| byte.is_ascii_digit())
                .count()
        }
        _ => 0,
    };
    let time =
        humantime::parse_rfc3339_weak(line.get(from..from + SHAPE.len() + fraction)?).ok()?;
    u64::try_from(time.duration_since(UNIX_EPOCH).ok()?.as_micros()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::example;

    #[test]
    fn times_are_found_in_the_logs_of_baton_and_of_etcd() {
        let expected = Some(1_767_323_045_000_006);
        assert_eq!(
            stamp(r#"{"level":"info","ts":"2026-01-02T03:04:05.000006Z","msg":"x"}"#),
            expected
        );
        assert_eq!(
            stamp("2026-01-02 03:04:05.000006 I | raft: elected"),
            expected
        );
        assert_eq!(stamp("thread panicked at 12:34"), None);
    }

    #[test]
    fn lines_of_all_members_within_two_seconds_are_found() {
        let directory = tempfile::tempdir().unwrap();
        let logs = Logs::of(&example::on_disk(directory.path()));
        let at = 10_000_000_000;
        let lines = logs.around(at);
        assert_eq!(lines.len(), 3 * 41);
        assert!(lines.iter().all(|line| line.at.abs_diff(at) <= AROUND));
        assert!((1..=3).all(|member| lines.iter().any(|line| line.member == member)));
    }
}
