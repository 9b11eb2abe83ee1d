//! "A watch delivers every event once, in revision order, whole revisions, resumable from any uncompacted revision; a watch
//! that cannot says so."
//!
//! Every watcher's stream, the witnesses' own among them, is held against the log of what happened. etcd's guarantees are
//! judged one by one: ordered, unique, atomic, reliable, resumable, bookmarkable; then that a watch is answered before it is
//! served, sees nothing below its start, nothing it filtered out, and the right previous values, that it is ended for
//! compaction if and only if it is below the floor, and that it keeps up when nothing stands in its way. A stream is judged
//! up to the first thing that is wrong with it.

pub(crate) mod log;
mod sitting;

#[cfg(test)]
mod tests;

use baton_proto::mvccpb::Event;
use baton_proto::mvccpb::event::EventType;

use self::log::{Entry, Log, concerns, lets_pass};
use self::sitting::{Message, Sitting};
use super::compactions::Compactions;
use super::lives::{self, Life, lives};
use super::witness;
use crate::history::{History, MemberEvent, Nanos};
use crate::verdict::{Judgement, Violation};

/// The name of the checker.
pub const CHECKER: &str = "watch";

/// The promise it judges.
pub const PROMISE: &str = "A watch delivers every event once, in revision order, whole revisions, resumable from any \
     uncompacted revision; a watch that cannot says so.";

/// How long an event may take to a watcher that nothing stands in the way of. Servers deliver within milliseconds; this only
/// has to tell what is late from what is lost, on a machine that does much else.
const LATE: Nanos = 10_000_000_000;

/// Judges every watch of a history; `compacts_itself` if the servers are set up to compact unasked.
pub fn judge(history: &History, compacts_itself: bool) -> Judgement {
    let mut judgement = Judgement::new(CHECKER, PROMISE);
    let witness = witness::gather(history);
    let lost = witness.lost.clone();
    let log = Log::of(witness);
    let sorted = sitting::sort(history);
    for stray in &sorted.strays {
        let what = format!(
            "member {} sent a message for watch id {}, which nobody has on that stream",
            stray.member, stray.watch_id
        );
        judgement.violated(Violation::new(what).seen_by(stray.watcher).at(stray.at));
    }
    let judge = Judge {
        history,
        log: &log,
        compactions: Compactions::of(history, compacts_itself),
        faults: lives(history).into_values().collect(),
        end: lives::end(history),
    };
    let mut beyond = 0;
    for sitting in &sorted.sittings {
        let mut following = Following::new(sitting);
        let judged = judge
            .follow(&mut following, &mut judgement)
            .and_then(|()| judge.keeps_up(&following, &mut judgement));
        if let Err(violation) = judged {
            judgement.violated(violation.seen_by(sitting.watcher));
        }
        beyond += usize::from(following.covered > log.end());
    }
    if let Some(lost) = lost.filter(|_| beyond > 0) {
        judgement.inconclusive.push(format!(
            "{beyond} watches went on where the log ends: {lost}"
        ));
    }
    judgement
}

/// What all watches of a run are judged by.
struct Judge<'a> {
    history: &'a History,
    log: &'a Log,
    compactions: Compactions,
    faults: Vec<Life>,
    end: Nanos,
}

/// A watch while its messages are read.
struct Following<'a> {
    sitting: &'a Sitting<'a>,
    /// The first revision it is about, once the server has answered it.
    from: Option<i64>,
    /// Up to where it has everything, by events or by a progress notification.
    covered: i64,
    /// The revision of its last event.
    last: i64,
    /// The revision of the last progress notification.
    bookmark: i64,
    /// The server ended it.
    ended: bool,
}

impl<'a> Following<'a> {
    fn new(sitting: &'a Sitting<'a>) -> Self {
        Self {
            sitting,
            from: None,
            covered: 0,
            last: 0,
            bookmark: 0,
            ended: false,
        }
    }

    /// A violation of this watch.
    fn wrong(&self, at: Nanos, what: &str) -> Violation {
        let request = self.sitting.request;
        let range = match &request.range_end[..] {
            [] => String::new(),
            [0] => " and all after it".to_owned(),
            end => format!(" to {}", end.escape_ascii()),
        };
        Violation::new(format!(
            "watch {} of {}{range} from revision {} at member {}: {what}",
            self.sitting.watcher,
            request.key.escape_ascii(),
            request.start_revision,
            self.sitting.member,
        ))
        .at(at)
    }
}

impl Judge<'_> {
    /// Whether what a watch was told is right.
    fn follow(&self, watch: &mut Following<'_>, judged: &mut Judgement) -> Result<(), Violation> {
        let sitting = watch.sitting;
        judged.count("watches", 1);
        judged.count("watches taken up again", usize::from(sitting.resumed));
        for message in &sitting.messages {
            let wrong = |what: &str| watch.wrong(message.at, what);
            if watch.ended {
                return Err(wrong("was told of more after its end"));
            }
            if message.head.created {
                self.created(watch, message, judged)?;
                continue;
            }
            let Some(from) = watch.from else {
                return Err(wrong("was served before it was answered"));
            };
            let floor = self.compactions.floor(sitting.member, sitting.asked);
            let below =
                0 < sitting.request.start_revision && sitting.request.start_revision < floor;
            if below && !message.head.canceled && !message.after_cancel {
                let what = format!(
                    "goes on, though the member had said that it compacted revision {floor}"
                );
                return Err(wrong(&what).at_revision(floor));
            }
            if message.parts > 1 {
                judged.count("messages in fragments", 1);
            }
            if !message.events.is_empty() {
                self.events(watch, message, from, judged)?;
            }
            if message.head.canceled {
                self.canceled(watch, message, from, judged)?;
                judged.count("starts below the floor", usize::from(below));
            } else if message.is_progress() {
                self.progress(watch, message, from, judged)?;
            }
        }
        Ok(())
    }

    fn created(
        &self,
        watch: &mut Following<'_>,
        message: &Message<'_>,
        judged: &mut Judgement,
    ) -> Result<(), Violation> {
        let request = watch.sitting.request;
        let wrong = |what: &str| watch.wrong(message.at, what);
        if watch.from.is_some() {
            return Err(wrong("was answered twice"));
        }
        if message.head.canceled {
            if message.head.cancel_reason.is_empty() {
                return Err(wrong("was refused without a reason"));
            }
            judged.count("refused", 1);
            watch.ended = true;
            return Ok(());
        }
        let id = message.head.watch_id;
        if request.watch_id != 0 && request.watch_id != id {
            let what = format!("was given id {id}, not {}", request.watch_id);
            return Err(wrong(&what));
        }
        let now = message.revision();
        let kind = match request.start_revision {
            0 => "watches of the present",
            start if start > now => "watches of the future",
            _ => "watches of the past",
        };
        judged.count(kind, 1);
        let from = match request.start_revision {
            0 => now + 1,
            start => start,
        };
        watch.covered = from - 1;
        watch.from = Some(from);
        Ok(())
    }

    fn events(
        &self,
        watch: &mut Following<'_>,
        message: &Message<'_>,
        from: i64,
        judged: &mut Judgement,
    ) -> Result<(), Violation> {
        let mut rest = &message.events[..];
        while let Some(first) = rest.first() {
            let revision = revision(first);
            let same = rest
                .iter()
                .take_while(|event| self::revision(event) == revision);
            let (events, after) = rest.split_at(same.count());
            rest = after;
            let wrong = |what: &str| watch.wrong(message.at, what).at_revision(revision);
            if revision < from {
                let what = format!("was told of revision {revision}, before its start at {from}");
                return Err(wrong(&what));
            }
            if revision < watch.last {
                let what = format!("went back from revision {} to {revision}", watch.last);
                return Err(wrong(&what));
            }
            if revision == watch.last {
                return Err(wrong(&self.again(watch, revision, events)));
            }
            if revision <= watch.bookmark {
                let what = format!(
                    "was told of revision {revision} after a progress notification at {}",
                    watch.bookmark
                );
                return Err(wrong(&what));
            }
            self.gap(watch, message.at, revision - 1, "was not told of", judged)?;
            self.revision(watch, message, revision, events, judged)?;
            watch.last = revision;
            watch.covered = revision;
        }
        Ok(())
    }

    /// What to say of events of the revision that the message before had ended with.
    fn again(&self, watch: &Following<'_>, revision: i64, events: &[&Event]) -> String {
        let key = |event: &Event| event.kv.clone().unwrap_or_default().key;
        let messages = watch.sitting.messages.iter();
        let told = messages.flat_map(|message| &message.events);
        let told: Vec<_> = told
            .filter(|event| self::revision(event) == revision)
            .map(|event| key(event))
            .collect();
        let times = |event: &&Event| told.iter().filter(|told| **told == key(event)).count();
        let repeated = events.iter().any(|event| times(event) > 1);
        if repeated {
            format!("was told of revision {revision} twice")
        } else {
            format!("was told of revision {revision} in two messages")
        }
    }

    /// Whether nothing happened after what the watch has and up to `to` that it should know.
    fn gap(
        &self,
        watch: &Following<'_>,
        at: Nanos,
        to: i64,
        how: &str,
        judged: &mut Judgement,
    ) -> Result<(), Violation> {
        let request = watch.sitting.request;
        for entry in self.log.between(watch.covered + 1, to) {
            if !concerns(request, &entry.event) {
                continue;
            }
            if !lets_pass(request, &entry.event) {
                judged.count("events filtered out", 1);
                continue;
            }
            let what = format!("{how} revision {}: {}", entry.revision, told(&entry.event));
            return Err(watch.wrong(at, &what).at_revision(entry.revision));
        }
        Ok(())
    }

    /// Whether the events of one revision are those that happened.
    fn revision(
        &self,
        watch: &Following<'_>,
        message: &Message<'_>,
        revision: i64,
        events: &[&Event],
        judged: &mut Judgement,
    ) -> Result<(), Violation> {
        let request = watch.sitting.request;
        let wrong = |what: &str| watch.wrong(message.at, what).at_revision(revision);
        for event in events {
            if !concerns(request, event) {
                return Err(wrong(&format!("was told of another key: {}", told(event))));
            }
            if !lets_pass(request, event) {
                let what = format!("was told of what it had filtered out: {}", told(event));
                return Err(wrong(&what));
            }
            if event.prev_kv.is_some() && !request.prev_kv {
                return Err(wrong(
                    "was told of a previous value, which it had not asked for",
                ));
            }
        }
        if revision > self.log.end() {
            return Ok(());
        }
        let happened = self.log.between(revision, revision).iter();
        let happened = happened.filter(|entry| concerns(request, &entry.event));
        let (happened, filtered): (Vec<&Entry>, Vec<&Entry>) =
            happened.partition(|entry| lets_pass(request, &entry.event));
        judged.count("events filtered out", filtered.len());
        let same = |event: &Event, entry: &Entry| {
            event.r#type == entry.event.r#type && event.kv == entry.event.kv
        };
        for event in events {
            if !happened.iter().any(|entry| same(event, entry)) {
                let what = format!("was told of what did not happen: {}", told(event));
                return Err(wrong(&what));
            }
        }
        for entry in &happened {
            if !events.iter().any(|event| same(event, entry)) {
                let what = format!(
                    "was told of a part of revision {revision}, without {}",
                    told(&entry.event)
                );
                return Err(wrong(&what));
            }
        }
        if events.len() != happened.len() {
            return Err(wrong(&format!(
                "was told of a part of revision {revision} twice"
            )));
        }
        for (event, entry) in events.iter().zip(&happened) {
            if !same(event, entry) {
                let what = format!("was told of revision {revision} in another order");
                return Err(wrong(&what));
            }
            if request.prev_kv {
                self.previous(watch, message, event, entry, judged)?;
            }
        }
        judged.count("events compared", events.len());
        if watch.sitting.resumed {
            judged.count("events after a resume", events.len());
        }
        Ok(())
    }

    /// Whether a key was before what an event says it was. That it says nothing is right only if it may be forgotten.
    fn previous(
        &self,
        watch: &Following<'_>,
        message: &Message<'_>,
        event: &Event,
        entry: &Entry,
        judged: &mut Judgement,
    ) -> Result<(), Violation> {
        judged.count(
            "previous values compared",
            usize::from(entry.before.is_some()),
        );
        if event.prev_kv == entry.before {
            return Ok(());
        }
        if event.prev_kv.is_none() && self.compactions.may_reach(entry.revision, message.at) {
            return Ok(());
        }
        let value = |kv: &Option<_>| match kv {
            Some(baton_proto::mvccpb::KeyValue {
                value,
                mod_revision,
                ..
            }) => format!("{} of revision {mod_revision}", short(value)),
            None => "nothing".to_owned(),
        };
        let what = format!(
            "was told that the value before was {}, not {}: {}",
            value(&event.prev_kv),
            value(&entry.before),
            told(event)
        );
        Err(watch.wrong(message.at, &what).at_revision(entry.revision))
    }

    fn canceled(
        &self,
        watch: &mut Following<'_>,
        message: &Message<'_>,
        from: i64,
        judged: &mut Judgement,
    ) -> Result<(), Violation> {
        watch.ended = true;
        let wrong = |what: &str| watch.wrong(message.at, what);
        let compacted = message.head.compact_revision;
        if compacted > 0 {
            judged.count("ended by compaction", 1);
            let next = from.max(watch.last + 1);
            if compacted <= next {
                let what = format!(
                    "was ended by a compaction at {compacted}, though all it needs is from {next} on"
                );
                return Err(wrong(&what).at_revision(compacted));
            }
            if !self.compactions.may_be_at(compacted, message.at) {
                let what = format!("was ended by a compaction at {compacted}, which nobody made");
                return Err(wrong(&what).at_revision(compacted));
            }
        } else if message.after_cancel {
            judged.count("ended as asked", 1);
        } else if message.head.cancel_reason.is_empty() {
            return Err(wrong("was ended without a reason"));
        } else {
            judged.count("ended for another reason", 1);
        }
        Ok(())
    }

    fn progress(
        &self,
        watch: &mut Following<'_>,
        message: &Message<'_>,
        from: i64,
        judged: &mut Judgement,
    ) -> Result<(), Violation> {
        let revision = message.revision();
        if revision < from {
            // Nothing it is about has happened yet, and it says nothing else.
            judged.count("progress notifications before the start", 1);
            return Ok(());
        }
        let how = format!("was told that it has everything up to revision {revision}, but not of");
        self.gap(watch, message.at, revision, &how, judged)?;
        judged.count("progress notifications", 1);
        watch.bookmark = watch.bookmark.max(revision);
        watch.covered = watch.covered.max(revision);
        Ok(())
    }

    /// Whether a watch that nothing stood in the way of had everything in time.
    fn keeps_up(&self, watch: &Following<'_>, judged: &mut Judgement) -> Result<(), Violation> {
        let sitting = watch.sitting;
        if watch.ended || sitting.broken.is_some() {
            return Ok(());
        }
        let end = sitting.cancelled.unwrap_or(self.end);
        let Some(due) = end.checked_sub(LATE).filter(|due| sitting.asked < *due) else {
            return Ok(());
        };
        if self.is_disturbed(sitting, due, end) {
            return Ok(());
        }
        judged.count("watches that had to keep up", 1);
        if watch.from.is_none() {
            return Err(watch.wrong(end, "was not answered"));
        }
        let request = sitting.request;
        let entries = self.log.between(watch.covered + 1, self.log.end()).iter();
        let missing = entries
            .take_while(|entry| entry.at < due)
            .find(|entry| concerns(request, &entry.event) && lets_pass(request, &entry.event));
        match missing {
            None => Ok(()),
            Some(entry) => {
                let late = (end - entry.at) / 1_000_000;
                let what = format!(
                    "was not told of revision {} for {late} ms: {}",
                    entry.revision,
                    told(&entry.event)
                );
                Err(watch.wrong(end, &what).at_revision(entry.revision))
            }
        }
    }

    /// Whether a fault, a restart of the member or a stall of the harness excuses a watch from `from` to `to`.
    fn is_disturbed(&self, sitting: &Sitting<'_>, from: Nanos, to: Nanos) -> bool {
        let faulty = self.faults.iter().any(|life| life.overlaps(from, to));
        let restarted = self.history.members.iter().any(|step| {
            let comes_or_goes = matches!(
                step.event,
                MemberEvent::Started { .. } | MemberEvent::Ended { .. }
            );
            step.member == sitting.member && comes_or_goes && (from..=to).contains(&step.at)
        });
        faulty || restarted || lives::stalled(self.history, from, to)
    }
}

fn revision(event: &Event) -> i64 {
    event.kv.as_ref().map_or(0, |kv| kv.mod_revision)
}

/// The beginning of a value.
fn short(value: &[u8]) -> String {
    const LONG: usize = 60;
    match value.get(..LONG) {
        Some(beginning) => format!("{}…", beginning.escape_ascii()),
        None => value.escape_ascii().to_string(),
    }
}

/// An event in words.
fn told(event: &Event) -> String {
    let kv = event.kv.clone().unwrap_or_default();
    let key = kv.key.escape_ascii();
    if event.r#type == EventType::Put as i32 {
        format!("{key} = {}", short(&kv.value))
    } else {
        format!("{key} deleted")
    }
}
