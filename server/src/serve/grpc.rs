//! One gRPC call: handed to its service, counted, and its deadline kept.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tonic::service::Routes;
use tonic::{Code, Status};
use tower::Service;

use super::header;
use crate::metrics::{Call, Calls, Received};
use crate::service::receipt::Receipt;
use crate::service::status::RpcError;

const STATUS: &str = "grpc-status";
const MESSAGE: &str = "grpc-message";
const TIMEOUT: &str = "grpc-timeout";
const UNIMPLEMENTED: &str = "12";

/// Has a call answered by its service.
pub(super) async fn answer(
    mut routes: Routes,
    calls: &Calls,
    slow_call: Option<Duration>,
    request: Request<Incoming>,
) -> Response<Counted> {
    let path = request.uri().path();
    let call = calls.start(path);
    let unknown = call.is_none().then(|| unknown_method(calls, path));
    let timeout = header(request.headers(), TIMEOUT).and_then(parse_timeout);
    let request = request.map(|body| {
        tonic::body::Body::new(Counting {
            body,
            frames: Frames::default(),
            received: call.as_ref().map(Call::received),
        })
    });
    let answered = routes.call(request);
    let response = match timeout {
        None => answered.await,
        Some(timeout) => match tokio::time::timeout(timeout, answered).await {
            Ok(answered) => answered,
            Err(_) => Ok(Status::deadline_exceeded("context deadline exceeded").into_http()),
        },
    };
    let Ok(response) = response;
    let (mut head, body) = response.into_parts();
    if let Some(unknown) = unknown
        && header(&head.headers, STATUS) == Some(UNIMPLEMENTED)
    {
        overwrite(&mut head.headers, &unknown);
    }
    let mut counted = Counted {
        body,
        frames: Frames::default(),
        call,
        slow_call,
        receipt: head.extensions.remove(),
    };
    // A call that failed at once says so in the headers and has no body.
    counted.conclude(&mut head.headers);
    Response::from_parts(head, counted)
}

/// A number and a letter for its unit.
fn parse_timeout(text: &str) -> Option<Duration> {
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    // The protocol allows eight digits.
    if number.is_empty() || number.len() > 8 || !number.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let number: u64 = number.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(number * 3600)),
        "M" => Some(Duration::from_secs(number * 60)),
        "S" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_millis(number)),
        "u" => Some(Duration::from_micros(number)),
        "n" => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

/// tonic refuses in words of its own what is not for a service to refuse; clients know those of Go.
fn reword(headers: &mut HeaderMap) {
    const OUT_OF_RANGE: &str = "11";
    const INTERNAL: &str = "13";
    let message = header(headers, MESSAGE).map(|message| message.replace("%20", " "));
    let refusal = match (header(headers, STATUS), message) {
        (Some(OUT_OF_RANGE), Some(message)) => parse_too_large(&message).map(|(found, limit)| {
            Status::resource_exhausted(format!(
                "grpc: received message larger than max ({found} vs. {limit})"
            ))
        }),
        // Nothing but transactions nests as deep as the decoder counts.
        (Some(INTERNAL), Some(message)) if message.ends_with("recursion limit reached") => {
            Some(RpcError::TooManyOps.into())
        }
        _ => None,
    };
    if let Some(refusal) = refusal {
        overwrite(headers, &refusal);
    }
}

fn overwrite(headers: &mut HeaderMap, status: &Status) {
    // Fails for none of the texts written here, and then leaves the code at least.
    let _ = status.add_header(headers);
}

/// The refusal of a path that is no method's.
fn unknown_method(calls: &Calls, path: &str) -> Status {
    Status::unimplemented(match path.trim_start_matches('/').rsplit_once('/') {
        None => format!("malformed method name: {path:?}"),
        Some((service, method)) if calls.has_service(service) => {
            format!("unknown method {method} for service {service}")
        }
        Some((service, _)) => format!("unknown service {service}"),
    })
}

/// Length found and length allowed.
fn parse_too_large(message: &str) -> Option<(u64, u64)> {
    let rest = message.strip_prefix("Error, decoded message length too large: found ")?;
    let (found, rest) = rest.split_once(" bytes, the limit is: ")?;
    let limit = rest.strip_suffix(" bytes")?;
    Some((found.parse().ok()?, limit.parse().ok()?))
}

/// Follows length-prefixed messages through chunks of bytes.
#[derive(Debug, Default)]
struct Frames {
    prefix: [u8; 5],
    prefix_len: usize,
    message_left: usize,
}

impl Frames {
    /// How many messages begin in `chunk`, and their lengths together.
    fn pass(&mut self, mut chunk: &[u8]) -> (u64, u64) {
        let (mut messages, mut bytes) = (0, 0);
        while !chunk.is_empty() {
            let skipped = self.message_left.min(chunk.len());
            self.message_left -= skipped;
            chunk = &chunk[skipped..];
            let taken = (self.prefix.len() - self.prefix_len).min(chunk.len());
            self.prefix[self.prefix_len..][..taken].copy_from_slice(&chunk[..taken]);
            self.prefix_len += taken;
            chunk = &chunk[taken..];
            if self.prefix_len == self.prefix.len() {
                let [_, a, b, c, d] = self.prefix;
                let length = u32::from_be_bytes([a, b, c, d]);
                self.prefix_len = 0;
                self.message_left = length as usize;
                messages += 1;
                bytes += u64::from(length);
            }
        }
        (messages, bytes)
    }
}

/// The body of a request, counted as it is read.
struct Counting {
    body: Incoming,
    frames: Frames,
    received: Option<Received>,
}

impl Body for Counting {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.body).poll_frame(context);
        if let (Poll::Ready(Some(Ok(frame))), Some(received)) = (&polled, &this.received)
            && let Some(chunk) = frame.data_ref()
        {
            let (messages, bytes) = this.frames.pass(chunk);
            received.add(messages, bytes);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The body of an answer, counted as it is sent. Dropped before its end, the call was cancelled.
pub(super) struct Counted {
    body: tonic::body::Body,
    frames: Frames,
    call: Option<Call>,
    slow_call: Option<Duration>,
    /// Who wants to know whether the answer went out.
    receipt: Option<Receipt>,
}

impl Counted {
    /// Takes note of the outcome if these headers or trailers tell it.
    fn conclude(&mut self, headers: &mut HeaderMap) {
        if !headers.contains_key(STATUS) {
            return;
        }
        reword(headers);
        let code = header(headers, STATUS).and_then(|code| code.parse().ok());
        if let Some(receipt) = self.receipt.take() {
            receipt.delivered();
        }
        self.finish(code.unwrap_or(Code::Unknown as usize));
    }

    fn finish(&mut self, code: usize) {
        let Some(mut call) = self.call.take() else {
            return;
        };
        call.finish(code);
        if let (Some(limit), Some(took)) = (self.slow_call, call.unary_time())
            && took > limit
        {
            tracing::warn!(
                method = call.path(),
                took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
                code,
                "request stats"
            );
        }
    }
}

impl Body for Counted {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        let mut polled = Pin::new(&mut this.body).poll_frame(context);
        match &mut polled {
            Poll::Pending => {}
            Poll::Ready(None) => this.finish(Code::Unknown as usize),
            Poll::Ready(Some(Err(status))) => this.finish(status.code() as usize),
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(trailers) = frame.trailers_mut() {
                    this.conclude(trailers);
                } else if let (Some(chunk), Some(call)) = (frame.data_ref(), &this.call) {
                    let (messages, bytes) = this.frames.pass(chunk);
                    call.sent(messages, bytes);
                }
            }
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_counted_however_they_are_cut() {
        let mut stream = Vec::new();
        for length in [0_u8, 3, 250] {
            stream.extend_from_slice(&[0, 0, 0, 0, length]);
            stream.extend(std::iter::repeat_n(7, usize::from(length)));
        }
        for size in 1..=stream.len() {
            let mut frames = Frames::default();
            let counts = stream.chunks(size).map(|chunk| frames.pass(chunk));
            let total = counts.fold((0, 0), |sum, count| (sum.0 + count.0, sum.1 + count.1));
            assert_eq!(total, (3, 253), "in chunks of {size}");
        }
    }

    #[tokio::test]
    async fn an_answer_counts_as_delivered_when_its_status_is_handed_over_and_not_before() {
        use std::sync::Arc;
        use std::sync::atomic::{AtomicBool, Ordering};

        use futures_util::StreamExt;
        use http_body_util::{BodyExt, StreamBody};

        let frames = || {
            let mut trailers = HeaderMap::new();
            trailers.insert(STATUS, http::HeaderValue::from_static("0"));
            let frames = [
                Frame::data(Bytes::from_static(b"answer")),
                Frame::trailers(trailers),
            ];
            tonic::body::Body::new(StreamBody::new(
                futures_util::stream::iter(frames).map(Ok::<_, Status>),
            ))
        };
        for (frames_taken, is_delivered) in [(0, false), (1, false), (2, true)] {
            let delivered = Arc::new(AtomicBool::new(false));
            let told = Arc::clone(&delivered);
            let mut body = Counted {
                body: frames(),
                frames: Frames::default(),
                call: None,
                slow_call: None,
                receipt: Some(Receipt::new(move || told.store(true, Ordering::Relaxed))),
            };
            for _ in 0..frames_taken {
                body.frame().await.unwrap().unwrap();
            }
            drop(body);
            let delivered = delivered.load(Ordering::Relaxed);
            assert_eq!(delivered, is_delivered, "after {frames_taken} frames");
        }
    }

    #[test]
    fn timeouts_are_read_in_every_unit() {
        for (text, timeout) in [
            ("1H", Some(Duration::from_secs(3600))),
            ("2M", Some(Duration::from_secs(120))),
            ("3S", Some(Duration::from_secs(3))),
            ("99999999m", Some(Duration::from_millis(99_999_999))),
            ("5u", Some(Duration::from_micros(5))),
            ("6n", Some(Duration::from_nanos(6))),
            ("", None),
            ("S", None),
            ("1", None),
            ("1é", None),
            ("123456789S", None),
            ("-1S", None),
        ] {
            assert_eq!(parse_timeout(text), timeout, "{text}");
        }
    }

    #[test]
    fn a_message_over_the_limit_is_refused_in_the_words_of_go() {
        let status = Status::out_of_range(
            "Error, decoded message length too large: found 3000000 bytes, the limit is: 2097152 bytes",
        );
        let mut headers = status.into_http::<()>().headers().clone();
        reword(&mut headers);
        let status = Status::from_header_map(&headers).unwrap();
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert_eq!(
            status.message(),
            "grpc: received message larger than max (3000000 vs. 2097152)"
        );
    }

    #[test]
    fn a_message_nested_deeper_than_the_decoder_counts_is_a_transaction_of_too_many_operations() {
        let status = Status::internal(
            "failed to decode Protobuf message: TxnRequest.success: recursion limit reached",
        );
        let mut headers = status.into_http::<()>().headers().clone();
        reword(&mut headers);
        let status = Status::from_header_map(&headers).unwrap();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert_eq!(
            status.message(),
            "etcdserver: too many operations in txn request"
        );
    }

    #[test]
    fn other_refusals_keep_their_words() {
        let status = Status::out_of_range("etcdserver: mvcc: required revision has been compacted");
        let mut headers = status.into_http::<()>().headers().clone();
        reword(&mut headers);
        let reread = Status::from_header_map(&headers).unwrap();
        assert_eq!(reread.code(), Code::OutOfRange);
        assert_eq!(reread.message(), status_message());

        fn status_message() -> &'static str {
            "etcdserver: mvcc: required revision has been compacted"
        }
    }
}
