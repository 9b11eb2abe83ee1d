//! The running hash that a server keeps of its state, where it shows one.

use serde::Deserialize;

use super::http;
use crate::history::{Member, MemberEvent, MemberStep, Record, Recorder};

/// Every so many entries a hash is taken down. Members that once differ differ for good, so that nothing is missed.
const EVERY: u64 = 16;

#[derive(Deserialize)]
struct Answer {
    hashes: Vec<Hash>,
}

#[derive(Deserialize)]
struct Hash {
    index: u64,
    term: u64,
    hash: String,
}

/// Follows the hashes of a member.
#[derive(Debug)]
pub struct Hashes {
    member: Member,
    next: u64,
    shown: bool,
}

impl Hashes {
    /// From the first one on.
    pub fn of(member: Member) -> Self {
        Self {
            member,
            next: 0,
            shown: true,
        }
    }

    /// Takes down what is new.
    pub async fn follow(&mut self, recorder: &Recorder) {
        if !self.shown {
            return;
        }
        let path = format!("/debug/state-hashes?from={}", self.next);
        // It may be down at the moment.
        let Ok((status, body)) = http::ask(self.member, "GET", &path).await else {
            return;
        };
        if status == 404 {
            // No server of this kind shows any.
            self.shown = false;
            return;
        }
        let Ok(answer) = serde_json::from_str::<Answer>(&body) else {
            return;
        };
        let last = answer.hashes.last().map_or(0, |hash| hash.index);
        for hash in answer.hashes {
            let worth_it = hash.index % EVERY == 0 || hash.index == last;
            if let (true, Ok(value)) = (worth_it, u64::from_str_radix(&hash.hash, 16)) {
                recorder.add(Record::Member(MemberStep {
                    member: self.member,
                    at: recorder.now(),
                    event: MemberEvent::StateHash {
                        index: hash.index,
                        term: hash.term,
                        hash: value,
                    },
                }));
            }
            self.next = self.next.max(hash.index + 1);
        }
    }
}
