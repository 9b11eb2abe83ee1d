//! How a queue's keys are spelled.
//!
//! ```text
//! baton.recipes/queue/<name>/job/<priority>/<id>     the payload; stays until the job is acknowledged
//! baton.recipes/queue/<name>/claim/<priority>/<id>   a worker has that job; ends with the worker's session
//! baton.recipes/queue/<name>/line/<session>          an idle worker's place in line
//! ```
//!
//! `<priority>` has five digits, so that the keys of all jobs sort by priority. No part contains a `/`, so that no
//! queue's keys lie among another's.

use std::fmt;

use baton_client::prefix_end;
use bytes::Bytes;

use crate::name::RESERVED;
use crate::{Error, Name};

/// Which job: its priority and a name that no other job of the queue has.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobId {
    priority: u16,
    name: String,
}

impl JobId {
    pub(crate) fn new(priority: u16, name: String) -> Self {
        Self { priority, name }
    }

    /// What the job was pushed with: 0 goes first.
    pub fn priority(&self) -> u16 {
        self.priority
    }

    /// The tail of a key: `<priority>/<id>`.
    fn parse(tail: &[u8]) -> Option<Self> {
        let tail = std::str::from_utf8(tail).ok()?;
        let (priority, name) = tail.split_once('/')?;
        let digits = priority.len() == PRIORITY_DIGITS
            && priority.bytes().all(|digit| digit.is_ascii_digit());
        if !digits || name.is_empty() || name.contains('/') {
            return None;
        }
        Some(Self::new(priority.parse().ok()?, name.to_owned()))
    }
}

const PRIORITY_DIGITS: usize = 5;

/// As in its key: `01000/694d7b1c-3`.
impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:05}/{}", self.priority, self.name)
    }
}

/// The keys of one queue.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    name: String,
}

impl Layout {
    /// # Errors
    /// [`Error::Invalid`] if the name is empty or has a `/`.
    pub(super) fn new(name: String) -> Result<Self, Error> {
        crate::names::check_segment("queue's name", &name)?;
        Ok(Self { name })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn jobs(&self) -> String {
        format!("{RESERVED}/queue/{}/job/", self.name)
    }

    pub(super) fn job(&self, id: &JobId) -> String {
        format!("{}{id}", self.jobs())
    }

    /// All jobs of one priority.
    pub(super) fn jobs_of(&self, priority: u16) -> String {
        format!("{}{priority:05}/", self.jobs())
    }

    /// From the first job behind all of that priority to the last.
    pub(super) fn jobs_behind(&self, priority: u16) -> (Bytes, Bytes) {
        (prefix_end(self.jobs_of(priority)), prefix_end(self.jobs()))
    }

    pub(super) fn claims(&self) -> String {
        format!("{RESERVED}/queue/{}/claim/", self.name)
    }

    pub(super) fn claim(&self, id: &JobId) -> String {
        format!("{}{id}", self.claims())
    }

    /// Claims and jobs, which lie side by side, and nothing else.
    pub(super) fn claims_and_jobs(&self) -> (Bytes, Bytes) {
        (self.claims().into(), prefix_end(self.jobs()))
    }

    /// The name idle workers line up under, as for a lock.
    pub(super) fn line(&self) -> Name {
        format!("{RESERVED}/queue/{}/line", self.name).into()
    }

    /// Whose job or claim this key is.
    ///
    /// # Errors
    /// [`baton_client::Error::Malformed`] if it is neither.
    pub(super) fn id(&self, key: &[u8]) -> Result<JobId, Error> {
        let tail = key
            .strip_prefix(self.jobs().as_bytes())
            .or_else(|| key.strip_prefix(self.claims().as_bytes()));
        tail.and_then(JobId::parse).ok_or_else(|| {
            let error = baton_client::Error::Malformed(format!(
                "the key {} is no job of the queue {}: remove it",
                String::from_utf8_lossy(key),
                self.name
            ));
            error.into()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(name: &str) -> Layout {
        Layout::new(name.to_owned()).unwrap()
    }

    /// Row 6 of the regression list, at its root.
    #[test]
    fn no_key_of_the_queue_jobs_lies_under_a_prefix_of_the_queue_job() {
        let id = JobId::new(1, "a".to_owned());
        let key = layout("jobs").job(&id);
        assert!(!key.starts_with(&layout("job").jobs()));
        assert!(!key.starts_with(&layout("job").claims()));
    }

    #[test]
    fn a_name_that_would_lie_inside_another_queue_is_refused_with_advice() {
        let error = Layout::new("job/job".to_owned()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "a queue's name cannot contain \"/\", which divides the parts of a key: use \"-\" or \".\" in \"job/job\""
        );
    }

    #[test]
    fn an_empty_name_is_refused_with_advice() {
        let error = Layout::new(String::new()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "a queue's name cannot be empty: give it at least one character"
        );
    }

    #[test]
    fn a_job_is_known_by_its_key_and_by_the_key_of_its_claim() {
        let layout = layout("mail");
        let id = JobId::new(7, "x-1".to_owned());
        assert_eq!(layout.job(&id), "baton.recipes/queue/mail/job/00007/x-1");
        assert_eq!(layout.id(layout.job(&id).as_bytes()).unwrap(), id);
        assert_eq!(layout.id(layout.claim(&id).as_bytes()).unwrap(), id);
    }

    #[test]
    fn a_foreign_key_among_the_jobs_is_named_in_the_error() {
        let error = layout("mail")
            .id(b"baton.recipes/queue/mail/job/hello")
            .unwrap_err();
        assert!(
            error
                .to_string()
                .contains("baton.recipes/queue/mail/job/hello"),
            "{error}"
        );
    }

    #[test]
    fn keys_of_jobs_sort_by_priority() {
        let layout = layout("mail");
        let key = |priority| layout.job(&JobId::new(priority, "a".to_owned()));
        assert!(key(9) < key(10));
        assert!(key(999) < key(u16::MAX));
    }

    #[test]
    fn claims_and_jobs_are_one_range_without_the_line() {
        let layout = layout("mail");
        let id = JobId::new(0, "a".to_owned());
        let (start, end) = layout.claims_and_jobs();
        let within = |key: String| start <= key.as_bytes() && end > key.as_bytes();
        assert!(within(layout.job(&id)));
        assert!(within(layout.claim(&id)));
        assert!(!within(layout.line().prefix()));
    }
}
