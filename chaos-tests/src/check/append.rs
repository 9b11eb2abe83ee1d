//! Promise 2: "Reads and transactions are linearizable by default", for transactions on several keys, without revisions.
//!
//! Lists that are only appended to show in which order that was done. From it follows which transaction wrote next after
//! which, which read what which wrote, and which read before which wrote over it; calls and returns say what came before
//! what in time. Strict serializability is that nothing of this goes round in a circle.

use std::collections::BTreeMap;

use bytes::Bytes;

use baton_proto::etcdserverpb as pb;
use pb::request_op::Request as Op;
use pb::response_op::Response as OpAnswer;

use super::cycles::{Before, Cycle, Graph};
use super::effects;
use crate::history::{Answer, History, Nanos, Operation, Outcome, Request};
use crate::verdict::{Judgement, Violation};
use crate::workload::append::APPEND;

/// The checker's name.
pub const CHECKER: &str = "append";

/// Judges a history.
pub fn judge(history: &History) -> Judgement {
    let mut judgement = Judgement::new(
        CHECKER,
        "Reads and transactions are linearizable by default.",
    );
    let mut evidence = Evidence::default();
    for operation in &history.operations {
        evidence.take(operation, &mut judgement);
    }
    let orders = evidence.orders(&mut judgement);
    let graph = evidence.graph(&orders);
    judgement.count("transactions", evidence.transactions.len());
    let several = evidence.transactions.iter().filter(|t| t.on_several());
    judgement.count("transactions on several lists", several.count());
    judgement.count("elements", orders.values().map(Vec::len).sum());
    judgement.count("edges", graph.len());
    for cycle in graph.cycles() {
        judgement.violated(evidence.told(&cycle));
    }
    judgement
}

/// What one operation did.
#[derive(Debug)]
struct Transaction {
    id: u64,
    called: Nanos,
    /// `None` if its outcome is not known.
    returned: Option<Nanos>,
    /// Lists as it read them, or as they were before it appended to them.
    reads: Vec<(Bytes, Vec<u64>)>,
    /// What it appended.
    appends: Vec<(Bytes, u64)>,
}

impl Transaction {
    fn on_several(&self) -> bool {
        self.reads.len() + self.appends.len() > 1
    }
}

/// All that there is to tell an order from.
#[derive(Debug, Default)]
struct Evidence {
    transactions: Vec<Transaction>,
    /// Who appended an element.
    writers: BTreeMap<u64, usize>,
    /// Elements of transactions that were refused.
    refused: BTreeMap<u64, u64>,
}

/// Reads a list.
fn parse(value: &[u8]) -> Option<Vec<u64>> {
    if value.is_empty() {
        return Some(Vec::new());
    }
    let text = std::str::from_utf8(value).ok()?;
    text.split(',')
        .map(|element| element.parse().ok())
        .collect()
}

impl Evidence {
    fn take(&mut self, operation: &Operation, judgement: &mut Judgement) {
        let mut transaction = Transaction {
            id: operation.id,
            called: operation.called,
            returned: None,
            reads: Vec::new(),
            appends: Vec::new(),
        };
        match &operation.outcome {
            Outcome::Ok(answer) => {
                transaction.returned = Some(operation.returned);
                let done = done(&operation.request, answer);
                for (list, value, appended) in done {
                    let Some(mut elements) = parse(&value) else {
                        judgement.violated(
                            Violation::new(format!(
                                "{} is no list: {}",
                                String::from_utf8_lossy(&list),
                                String::from_utf8_lossy(&value)
                            ))
                            .by([operation.id]),
                        );
                        continue;
                    };
                    if appended && let Some(element) = elements.pop() {
                        transaction.appends.push((list.clone(), element));
                    }
                    transaction.reads.push((list, elements));
                }
            }
            Outcome::Unknown(_) => transaction.appends = asked(operation),
            Outcome::Failed(_) => {
                for (_, element) in asked(operation) {
                    self.refused.insert(element, operation.id);
                }
            }
        }
        if transaction.reads.is_empty() && transaction.appends.is_empty() {
            return;
        }
        for (_, element) in &transaction.appends {
            self.writers.insert(*element, self.transactions.len());
        }
        self.transactions.push(transaction);
    }

    /// The order in which each list was appended to.
    fn orders(&self, judgement: &mut Judgement) -> BTreeMap<Bytes, Vec<u64>> {
        let mut longest: BTreeMap<Bytes, (Vec<u64>, u64)> = BTreeMap::new();
        for (transaction, list, elements) in self.seen() {
            let (order, by) = longest.entry(list.clone()).or_default();
            if elements.len() > order.len() {
                *order = elements;
                *by = transaction.id;
            }
        }
        let mut wrong: Vec<(String, Vec<u64>)> = Vec::new();
        for (transaction, list, elements) in self.seen() {
            let (order, by) = &longest[&list];
            let name = String::from_utf8_lossy(&list);
            if !order.starts_with(&elements) {
                let what = format!(
                    "{name} is in two orders: {elements:?} to operation {} and {order:?} to operation {by}",
                    transaction.id
                );
                wrong.push((what, vec![*by, transaction.id]));
            }
        }
        for (list, (order, by)) in &longest {
            let name = String::from_utf8_lossy(list);
            let mut seen = std::collections::BTreeSet::new();
            for element in order {
                if !seen.insert(element) {
                    wrong.push((format!("{name} has {element} twice"), vec![*by]));
                }
                if let Some(refused) = self.refused.get(element) {
                    let what = format!(
                        "G1a: {name} has {element}, which operation {refused} was refused to append"
                    );
                    wrong.push((what, vec![*refused, *by]));
                } else if !self.writers.contains_key(element) {
                    let what = format!("{name} has {element}, which nobody appended");
                    wrong.push((what, vec![*by]));
                }
            }
        }
        for (what, operations) in wrong {
            judgement.violated(Violation::new(what).by(operations));
        }
        longest
            .into_iter()
            .map(|(list, (order, _))| (list, order))
            .collect()
    }

    /// Every list as somebody saw or left it.
    fn seen(&self) -> impl Iterator<Item = (&Transaction, Bytes, Vec<u64>)> {
        self.transactions.iter().flat_map(|transaction| {
            transaction.reads.iter().map(move |(list, elements)| {
                let mut elements = elements.clone();
                let appended = transaction.appends.iter().find(|(to, _)| to == list);
                elements.extend(appended.map(|(_, element)| element));
                (transaction, list.clone(), elements)
            })
        })
    }

    /// What comes before what.
    fn graph(&self, orders: &BTreeMap<Bytes, Vec<u64>>) -> Graph {
        let mut graph = Graph::new(self.transactions.len());
        let writer = |element: &u64| self.writers.get(element).copied();
        for order in orders.values() {
            for pair in order.windows(2) {
                if let (Some(before), Some(after)) = (writer(&pair[0]), writer(&pair[1])) {
                    graph.edge(before, after, Before::Wrote);
                }
            }
        }
        for (reader, transaction) in self.transactions.iter().enumerate() {
            for (list, elements) in &transaction.reads {
                if let Some(before) = elements.last().and_then(writer) {
                    graph.edge(before, reader, Before::WasRead);
                }
                let next = orders.get(list).and_then(|order| order.get(elements.len()));
                if let Some(after) = next.and_then(writer) {
                    graph.edge(reader, after, Before::Read);
                }
            }
        }
        self.order_in_time(&mut graph);
        graph
    }

    /// Every return is a moment, moments follow each other, and a call follows the last moment before it. So there are no
    /// more edges than twice the transactions.
    fn order_in_time(&self, graph: &mut Graph) {
        let mut returns: Vec<(Nanos, usize)> = (self.transactions.iter().enumerate())
            .filter_map(|(at, transaction)| Some((transaction.returned?, at)))
            .collect();
        returns.sort_unstable();
        let mut moments: Vec<(Nanos, usize)> = Vec::new();
        for (at, transaction) in returns {
            let moment = graph.add();
            graph.edge(transaction, moment, Before::Returned);
            if let Some((_, last)) = moments.last() {
                graph.edge(*last, moment, Before::Returned);
            }
            moments.push((at, moment));
        }
        for (number, transaction) in self.transactions.iter().enumerate() {
            let before = moments.partition_point(|(at, _)| *at < transaction.called);
            if let Some((_, moment)) = before.checked_sub(1).map(|last| moments[last]) {
                graph.edge(moment, number, Before::Returned);
            }
        }
    }

    /// A cycle in words.
    fn told(&self, cycle: &Cycle) -> Violation {
        let nodes: Vec<(u64, Before)> = cycle
            .nodes
            .iter()
            .filter_map(|(node, why)| Some((self.transactions.get(*node)?.id, *why)))
            .collect();
        let mut what = format!("{}:", cycle.name);
        for (id, why) in &nodes {
            let why = match why {
                Before::Wrote => "wrote before",
                Before::WasRead => "was read by",
                Before::Read => "read what was written over by",
                Before::Returned => "had returned when there was called",
            };
            what += &format!(" {id} {why}");
        }
        let first = nodes.first().map(|(id, _)| *id);
        what += &format!(" {}", first.unwrap_or_default());
        Violation::new(what).by(nodes.iter().map(|(id, _)| *id))
    }
}

/// Lists that an answered operation read or wrote: the value, and whether it was written.
fn done(request: &Request, answer: &Answer) -> Vec<(Bytes, Bytes, bool)> {
    let mut done = Vec::new();
    let ours = |key: &Bytes| key.starts_with(APPEND.as_bytes());
    match (request, answer) {
        (Request::Range(request), Answer::Range(answer))
            if !request.serializable && !request.keys_only && request.revision == 0 =>
        {
            let kvs = answer.kvs.iter().filter(|kv| ours(&kv.key));
            done.extend(kvs.map(|kv| (kv.key.clone(), kv.value.clone(), false)));
        }
        (Request::Txn(request), Answer::Txn(answer)) => {
            let ops = if answer.succeeded {
                &request.success
            } else {
                &request.failure
            };
            for (op, response) in std::iter::zip(ops, &answer.responses) {
                match (&op.request, &response.response) {
                    (Some(Op::RequestRange(request)), Some(OpAnswer::ResponseRange(answer)))
                        if ours(&request.key) =>
                    {
                        let value = answer.kvs.first().map(|kv| kv.value.clone());
                        done.push((request.key.clone(), value.unwrap_or_default(), false));
                    }
                    (Some(Op::RequestPut(request)), _) if ours(&request.key) => {
                        done.push((request.key.clone(), request.value.clone(), true));
                    }
                    _ => {}
                }
            }
        }
        _ => {}
    }
    done
}

/// What an operation was to append.
fn asked(operation: &Operation) -> Vec<(Bytes, u64)> {
    effects::writes_of(&operation.request)
        .puts
        .iter()
        .filter(|put| put.key.starts_with(APPEND.as_bytes()))
        .filter_map(|put| Some((put.key.clone(), parse(&put.value)?.pop()?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Error;
    use crate::workload::requests::op;

    /// A transaction that read these lists and appended to those. `id` is also when it was called, in tens.
    fn transaction(
        id: u64,
        lasts: Nanos,
        reads: &[(&str, &str)],
        puts: &[(&str, &str)],
    ) -> Operation {
        let key = |list: &str| Bytes::from(format!("{APPEND}/{list}"));
        let mut request = pb::TxnRequest::default();
        let mut answer = pb::TxnResponse {
            succeeded: true,
            ..Default::default()
        };
        let mut add = |request_op, response| {
            request.success.push(op(request_op));
            answer.responses.push(pb::ResponseOp {
                response: Some(response),
            });
        };
        for (list, value) in reads {
            let kv = baton_proto::mvccpb::KeyValue {
                key: key(list),
                value: (*value).to_owned().into(),
                ..Default::default()
            };
            add(
                Op::RequestRange(pb::RangeRequest {
                    key: key(list),
                    ..Default::default()
                }),
                OpAnswer::ResponseRange(pb::RangeResponse {
                    kvs: vec![kv],
                    ..Default::default()
                }),
            );
        }
        for (list, value) in puts {
            add(
                Op::RequestPut(pb::PutRequest {
                    key: key(list),
                    value: (*value).to_owned().into(),
                    ..Default::default()
                }),
                OpAnswer::ResponsePut(pb::PutResponse::default()),
            );
        }
        Operation {
            id,
            workload: APPEND.into(),
            client: 1,
            member: 1,
            called: id * 10,
            returned: id * 10 + lasts,
            request: request.into(),
            outcome: Outcome::Ok(Answer::Txn(answer)),
        }
    }

    fn unknown(operation: Operation) -> Operation {
        Operation {
            outcome: Outcome::Unknown(Error {
                code: 4,
                message: String::new(),
            }),
            ..operation
        }
    }

    /// The first words of the violations of a history.
    fn names(operations: Vec<Operation>) -> Vec<String> {
        let history = History {
            operations,
            ..Default::default()
        };
        let judgement = judge(&history);
        let what = judgement.violations.iter().map(|violation| &violation.what);
        what.map(|what| what.split(':').next().unwrap_or_default().to_owned())
            .collect()
    }

    const NONE: [&str; 0] = [];

    #[test]
    fn transactions_in_an_order_pass() {
        let history = vec![
            transaction(1, 5, &[], &[("a", "1"), ("b", "2")]),
            unknown(transaction(2, 5, &[], &[("a", "1,3")])),
            unknown(transaction(3, 5, &[], &[("b", "2,4")])),
            transaction(4, 5, &[("a", "1,3"), ("b", "2")], &[]),
        ];
        assert_eq!(names(history), NONE);
    }

    #[test]
    fn a_torn_read_is_called_g_single() {
        let history = vec![
            transaction(1, 50, &[], &[("a", "1"), ("b", "2")]),
            transaction(2, 50, &[("a", "1"), ("b", "")], &[]),
            transaction(9, 5, &[("b", "2")], &[]),
        ];
        assert_eq!(names(history), ["G-single"]);
    }

    #[test]
    fn two_that_each_miss_what_the_other_wrote_are_called_g2() {
        let history = vec![
            transaction(1, 50, &[("b", "")], &[("a", "1")]),
            transaction(2, 50, &[("a", "")], &[("b", "2")]),
            transaction(9, 5, &[("a", "1"), ("b", "2")], &[]),
        ];
        assert_eq!(names(history), ["G2"]);
    }

    #[test]
    fn a_read_of_what_was_written_over_long_ago_is_called_so_in_real_time() {
        let history = vec![
            transaction(1, 5, &[], &[("a", "1")]),
            transaction(2, 5, &[], &[("a", "1,2")]),
            transaction(3, 5, &[("a", "1")], &[]),
        ];
        assert_eq!(names(history), ["G-single-realtime"]);
    }

    #[test]
    fn an_update_that_is_lost_is_two_orders_of_a_list() {
        let history = vec![
            transaction(1, 50, &[], &[("a", "1")]),
            transaction(2, 50, &[], &[("a", "2")]),
        ];
        assert_eq!(names(history), ["append/a is in two orders"]);
    }

    #[test]
    fn what_was_refused_and_is_there_nevertheless_is_called_g1a() {
        let refused = Operation {
            outcome: Outcome::Failed(Error {
                code: 9,
                message: String::new(),
            }),
            ..transaction(1, 5, &[], &[("a", "1")])
        };
        let history = vec![refused, transaction(2, 5, &[("a", "1")], &[])];
        assert_eq!(names(history), ["G1a"]);
    }
}
