//! How watch responses become bytes: the events are bytes already.

use baton_proto::etcdserverpb::{WatchRequest, WatchResponse};
use bytes::{BufMut, Bytes};
use prost::Message;
use tonic::Status;
use tonic::codec::{Codec, EncodeBuf, Encoder};
use tonic_prost::ProstDecoder;

/// A watch response whose events are encoded: the fields of `head`, then the `events` fields. An event
/// is encoded once for all watchers it goes to.
#[derive(Debug, Default)]
pub(super) struct Frame {
    /// Everything but the events.
    pub head: WatchResponse,
    /// Each with its field key and length.
    pub events: Vec<Bytes>,
}

/// The codec of the watch stream.
#[derive(Debug, Default)]
pub(super) struct WatchCodec;

/// Writes [`Frame`]s.
#[derive(Debug, Default)]
pub(super) struct FrameEncoder;

impl Codec for WatchCodec {
    type Encode = Frame;
    type Decode = WatchRequest;
    type Encoder = FrameEncoder;
    type Decoder = ProstDecoder<WatchRequest>;

    fn encoder(&mut self) -> FrameEncoder {
        FrameEncoder
    }

    fn decoder(&mut self) -> ProstDecoder<WatchRequest> {
        ProstDecoder::default()
    }
}

impl Encoder for FrameEncoder {
    type Item = Frame;
    type Error = Status;

    fn encode(&mut self, frame: Frame, buf: &mut EncodeBuf<'_>) -> Result<(), Status> {
        write(&frame, buf);
        Ok(())
    }
}

fn write(frame: &Frame, buf: &mut impl BufMut) {
    frame.head.encode_raw(buf);
    for event in &frame.events {
        buf.put_slice(event);
    }
}

#[cfg(test)]
mod tests {
    use baton_proto::etcdserverpb::ResponseHeader;
    use baton_proto::mvccpb::{Event, KeyValue};

    use super::*;
    use crate::watch::ring::encode_event;

    #[test]
    fn a_frame_decodes_as_the_response_it_stands_for() {
        let kv = KeyValue {
            key: "k".into(),
            value: "v".into(),
            mod_revision: 7,
            ..KeyValue::default()
        };
        let head = WatchResponse {
            header: Some(ResponseHeader {
                revision: 7,
                ..ResponseHeader::default()
            }),
            watch_id: 3,
            fragment: true,
            ..WatchResponse::default()
        };
        let event = encode_event(baton_state_machine::EventKind::Put, &kv, None);
        let frame = Frame {
            head: head.clone(),
            events: vec![event.clone(), event],
        };
        let mut bytes = Vec::new();
        write(&frame, &mut bytes);
        let event = Event {
            kv: Some(kv),
            ..Event::default()
        };
        assert_eq!(
            WatchResponse::decode(&bytes[..]).unwrap(),
            WatchResponse {
                events: vec![event.clone(), event],
                ..head
            }
        );
    }
}
