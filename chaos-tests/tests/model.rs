//! The model and an installed etcd are asked the same.
#![allow(clippy::print_stderr, reason = "a test says when it is skipped")]

use std::time::Duration;

use baton_proto::etcdserverpb as pb;
use baton_test_cluster::process::{Cluster, Program};
use chaos_tests::check::{agree, effects};
use chaos_tests::client::{Client, Dial};
use chaos_tests::history::{Outcome, Recorder, Request};
use chaos_tests::model::{Model, Refusal};
use chaos_tests::seed;
use chaos_tests::workload::requests::Draw;
use pb::request_op::Request as Op;
use rand::Rng;
use rand::rngs::SmallRng;
use tonic::transport::Endpoint;

/// Requests of a run in continuous integration; `BATON_MODEL_REQUESTS` asks for more.
const REQUESTS: u64 = 1_500;

/// Leases that keys are attached to. They outlive the test.
const LEASES: [i64; 2] = [0x71, 0x72];

fn from_environment(name: &str, default: u64) -> u64 {
    let value = std::env::var(name).ok();
    value.map_or(default, |value| value.parse().expect("a number"))
}

/// Attaches some puts of a request to a lease.
fn attach(request: &mut Request, chance: &mut SmallRng) {
    let mut lease = |put: &mut pb::PutRequest| {
        if !put.ignore_lease && chance.random_bool(0.3) {
            put.lease = LEASES[chance.random_range(0..LEASES.len())];
        }
    };
    match request {
        Request::Put(put) => lease(put),
        Request::Txn(request) => {
            for op in request.success.iter_mut().chain(&mut request.failure) {
                if let Some(Op::RequestPut(put)) = &mut op.request {
                    lease(put);
                }
            }
        }
        _ => {}
    }
}

/// What a server says of a request that the model refuses.
fn refusal(refusal: Refusal) -> &'static str {
    match refusal {
        Refusal::KeyNotFound => "etcdserver: key not found",
        Refusal::FutureRevision => "etcdserver: mvcc: required revision is a future revision",
    }
}

#[tokio::test]
async fn an_installed_etcd_answers_as_the_model_says() {
    let Some(etcd) = Program::installed_etcd() else {
        eprintln!("SKIPPED an_installed_etcd_answers_as_the_model_says: no etcd in $PATH");
        return;
    };
    let requests = from_environment("BATON_MODEL_REQUESTS", REQUESTS);
    let seed = from_environment("BATON_MODEL_SEED", 1);
    let cluster = Cluster::start(&etcd, 1).await.expect("a cluster");
    let url = cluster.members[0].url();
    let dial = Dial::new(move |_| {
        Endpoint::from_shared(url.clone())
            .expect("a URL")
            .connect_lazy()
    });
    let patience = Duration::from_secs(30);
    let mut client = Client::new(&dial, &Recorder::begin(), "model", 1, patience);
    for id in LEASES {
        let grant = pb::LeaseGrantRequest { ttl: 100_000, id };
        assert!(matches!(client.call(grant).await, Outcome::Ok(_)));
    }

    let mut chance = seed::stream(seed, "model");
    let mut model = Model::new();
    let mut draw = Draw::new("model".into());
    let (mut answered, mut refused) = (0, 0);
    for number in 0..requests {
        draw.on(&format!("model/{}/", number / 300), 5);
        let mut request = draw.next(&mut chance);
        attach(&mut request, &mut chance);
        let outcome = client.call(request.clone()).await;
        draw.learn(&request, &outcome);
        let mut draft = model.draft(model.revision());
        let evaluated = effects::evaluate(&request, &mut draft).expect("a request on keys");
        match (evaluated, outcome) {
            (Ok(expected), Outcome::Ok(answer)) => {
                let changes = draft.into_changes();
                if !changes.is_empty() {
                    model.push(changes);
                }
                assert_eq!(
                    (
                        agree::answer(&request, &expected, &answer),
                        answer.header().revision
                    ),
                    (Ok(()), model.revision()),
                    "request {number} of seed {seed}: {request:?}"
                );
                answered += 1;
            }
            (Err(expected), Outcome::Failed(error)) if error.message == refusal(expected) => {
                refused += 1;
            }
            (expected, outcome) => panic!(
                "request {number} of seed {seed}: {request:?}: {expected:?} by the model, {outcome:?} by etcd"
            ),
        }
    }
    assert!(
        answered > requests / 2 && refused > 0,
        "{answered} requests answered and {refused} refused"
    );
}
