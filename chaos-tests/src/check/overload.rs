//! "Bad input is refused with the contract's error; no input stops a server."
//!
//! Judges how more load than a cluster can take is met: what is larger than any request may be is refused as just that, and
//! the facts say how the rest went, and whether other clients were served meanwhile.

use crate::history::{History, Nanos, Operation, Outcome, Request};
use crate::verdict::{Judgement, Violation};
use crate::workload::overload::{LARGEST_VALUE, WORKLOAD};

/// Its name.
pub const CHECKER: &str = "overload";

/// What it judges.
const PROMISE: &str = "Bad input is refused with the contract's error; no input stops a server.";

/// `INVALID_ARGUMENT`, for what the store does not take, and `RESOURCE_EXHAUSTED`, for what gRPC does not.
const TOO_LARGE: [i32; 2] = [3, 8];

/// Judges it. Facts: `taken`, `refused`, `without an answer`, `too large and refused`, `others served meanwhile`.
pub fn judge(history: &History) -> Judgement {
    let mut judgement = Judgement::new(CHECKER, PROMISE);
    let mut span: Option<(Nanos, Nanos)> = None;
    for op in history
        .operations
        .iter()
        .filter(|op| op.workload == WORKLOAD)
    {
        let (from, to) = span.unwrap_or((op.called, op.returned));
        span = Some((from.min(op.called), to.max(op.returned)));
        let fact = match &op.outcome {
            Outcome::Ok(_) => "taken",
            Outcome::Failed(_) => "refused",
            Outcome::Unknown(_) => "without an answer",
        };
        judgement.count(fact, 1);
        if is_too_large(op) {
            too_large(op, &mut judgement);
        }
    }
    if let Some((from, to)) = span {
        let others = history
            .answered()
            .filter(|(op, _)| op.workload != WORKLOAD && from <= op.called && op.returned <= to);
        judgement.count("others served meanwhile", others.count());
    }
    judgement
}

fn is_too_large(op: &Operation) -> bool {
    matches!(&op.request, Request::Put(put) if put.value.len() > LARGEST_VALUE)
}

fn too_large(op: &Operation, judgement: &mut Judgement) {
    let Request::Put(put) = &op.request else {
        return;
    };
    let bytes = put.value.len();
    let wrong = |what: String| Violation::new(what).by([op.id]).at(op.returned);
    match &op.outcome {
        Outcome::Ok(_) => judgement.violated(wrong(format!(
            "member {} took a value of {bytes} bytes, more than any request may have",
            op.member
        ))),
        Outcome::Failed(error) if TOO_LARGE.contains(&error.code) => {
            judgement.count("too large and refused", 1);
        }
        // Nobody listened, which is no answer to the request.
        Outcome::Failed(error) if error.code == 14 => {}
        Outcome::Failed(error) => judgement.violated(wrong(format!(
            "member {} refused a value of {bytes} bytes as {}: {}",
            op.member, error.code, error.message
        ))),
        Outcome::Unknown(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{Answer, Error, Record};
    use baton_proto::etcdserverpb as pb;

    fn judged(bytes: usize, outcome: Outcome) -> Judgement {
        let put = pb::PutRequest {
            value: vec![b'.'; bytes].into(),
            ..Default::default()
        };
        judge(&History::of([Record::Operation(Operation {
            id: 1,
            workload: WORKLOAD.into(),
            client: 1,
            member: 1,
            called: 1,
            returned: 2,
            request: put.into(),
            outcome,
        })]))
    }

    fn failed(code: i32) -> Outcome {
        Outcome::Failed(Error {
            code,
            message: "etcdserver: request is too large".into(),
        })
    }

    fn taken() -> Outcome {
        Outcome::Ok(Answer::Put(pb::PutResponse::default()))
    }

    #[test]
    fn what_is_too_large_has_to_be_refused_as_that() {
        let large = LARGEST_VALUE + 1;
        assert_eq!(judged(large, failed(3)).violations, []);
        assert_eq!(judged(large, failed(3)).facts["too large and refused"], 1);
        assert_eq!(judged(large, taken()).violations.len(), 1);
        assert_eq!(judged(large, failed(9)).violations.len(), 1);
    }

    #[test]
    fn what_fits_may_be_taken_or_refused() {
        assert_eq!(judged(10, taken()).facts["taken"], 1);
        assert_eq!(judged(10, failed(8)).facts["refused"], 1);
    }
}
