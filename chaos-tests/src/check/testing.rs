//! Records for the tests of checkers.

use baton_proto::etcdserverpb as pb;

use crate::history::{Answer, Nanos, Operation, Outcome};
use crate::selftest::honest;

/// A write of `a` that was acknowledged at a revision.
pub fn put_acknowledged(revision: i64, returned: Nanos) -> Operation {
    let answer = pb::PutResponse {
        header: Some(honest::header(1, revision)),
        prev_kv: None,
    };
    Operation {
        id: 1,
        workload: "register".into(),
        client: 1,
        member: 1,
        called: 0,
        returned,
        request: pb::PutRequest {
            key: "a".into(),
            ..Default::default()
        }
        .into(),
        outcome: Outcome::Ok(Answer::Put(answer)),
    }
}
