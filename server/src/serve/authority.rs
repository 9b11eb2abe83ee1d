//! Requests whose `:authority` is no authority.
//!
//! Clients made with older grpc-go send an endpoint just as it was typed: `http://host:2379`, or the
//! path of a socket. A server in Go ignores the field, whereas the `h2` library resets every stream
//! that has it malformed, before anybody here gets to see the request.
//!
//! So the field is mended between the socket and that library. A mended value is as long as the
//! value it replaces: that keeps the two sides' HPACK tables alike, and thus all other fields, and
//! all blocks that refer to the tables, pass untouched and without being decoded. The room that the
//! scheme leaves is filled with user information: `http://host:2379` becomes `------@host:2379`.
//!
//! One connection has one authority: a connection whose first request has a good one is only copied
//! from then on. So is one that carries what is not understood here; judging it is left to the
//! library. A value behind the first 16 KiB of its request's fields is not found, nor one whose name
//! refers to a name the client defined before.

mod hpack;
#[cfg(test)]
mod tests;

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use http::uri::Authority;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use hpack::{integer, put_length, string};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const FRAME_HEADER_BYTES: usize = 9;
/// What HTTP/2 begins with; the server offers no more.
const FRAME_PAYLOAD_BYTES_MAX: usize = 16_384;
const HEADERS: u8 = 0x1;
const CONTINUATION: u8 = 0x9;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;
const PRIORITY_BYTES: usize = 5;
const AUTHORITY_INDEX: usize = 1;

/// A connection of which the server reads mended requests.
pub(super) struct Mended<S> {
    stream: S,
    mender: Mender,
    /// What has passed the mender and was not read yet.
    passed: BytesMut,
}

impl<S> Mended<S> {
    pub(super) fn new(stream: S) -> Self {
        Self {
            stream,
            mender: Mender::default(),
            passed: BytesMut::new(),
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Mended<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while buffer.remaining() > 0 {
            if !this.passed.is_empty() {
                let count = this.passed.len().min(buffer.remaining());
                buffer.put_slice(&this.passed[..count]);
                this.passed.advance(count);
                return Poll::Ready(Ok(()));
            }
            let before = buffer.filled().len();
            ready!(Pin::new(&mut this.stream).poll_read(context, buffer))?;
            if matches!(this.mender.stage, Stage::Copy) {
                return Poll::Ready(Ok(()));
            }
            let read = &buffer.filled()[before..];
            if read.is_empty() {
                this.mender.give_up(&mut this.passed);
            } else {
                this.mender.pass(read, &mut this.passed);
            }
            buffer.set_filled(before);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Mended<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[derive(Default)]
struct Mender {
    stage: Stage,
    /// The beginning of a frame, kept until it is known what to do with it: at most one frame of
    /// the largest size.
    held: Vec<u8>,
    has_mended: bool,
}

enum Stage {
    /// So many bytes of the preface have passed.
    Preface(usize),
    /// So many bytes of the present frame pass as they are.
    Frames(usize),
    Copy,
}

impl Default for Stage {
    fn default() -> Self {
        Self::Preface(0)
    }
}

impl Mender {
    fn pass(&mut self, mut input: &[u8], output: &mut BytesMut) {
        while !input.is_empty() {
            match &mut self.stage {
                Stage::Copy => {
                    output.extend_from_slice(input);
                    return;
                }
                Stage::Preface(matched) => {
                    if input[0] != PREFACE[*matched] {
                        self.stage = Stage::Copy;
                        continue;
                    }
                    output.extend_from_slice(&input[..1]);
                    input.advance(1);
                    *matched += 1;
                    if *matched == PREFACE.len() {
                        self.stage = Stage::Frames(0);
                    }
                }
                Stage::Frames(0) => {
                    let missing = frame_bytes(&self.held) - self.held.len();
                    let count = missing.min(input.len());
                    self.held.extend_from_slice(&input[..count]);
                    input.advance(count);
                    if count == missing {
                        self.examine(output);
                    }
                }
                Stage::Frames(remaining) => {
                    let count = input.len().min(*remaining);
                    output.extend_from_slice(&input[..count]);
                    input.advance(count);
                    *remaining -= count;
                }
            }
        }
    }

    /// What is held is a frame's header, or a whole frame.
    fn examine(&mut self, output: &mut BytesMut) {
        let payload_bytes = frame_bytes(&self.held) - FRAME_HEADER_BYTES;
        if self.held[3] != HEADERS {
            output.extend_from_slice(&self.held);
            self.held.clear();
            self.stage = Stage::Frames(payload_bytes);
        } else if payload_bytes == 0 || payload_bytes > FRAME_PAYLOAD_BYTES_MAX {
            self.give_up(output);
        } else if self.held.len() > FRAME_HEADER_BYTES {
            match mend_frame(&self.held) {
                Some(mended) => {
                    output.extend_from_slice(&mended);
                    self.held.clear();
                    self.has_mended = true;
                }
                None if self.has_mended => {
                    output.extend_from_slice(&self.held);
                    self.held.clear();
                }
                None => self.give_up(output),
            }
        }
    }

    fn give_up(&mut self, output: &mut BytesMut) {
        output.extend_from_slice(&std::mem::take(&mut self.held));
        self.stage = Stage::Copy;
    }
}

/// The length of the frame that begins with `held`, or of a frame's header while that is not whole.
fn frame_bytes(held: &[u8]) -> usize {
    if held.len() < FRAME_HEADER_BYTES {
        return FRAME_HEADER_BYTES;
    }
    let length = [0, held[0], held[1], held[2]];
    FRAME_HEADER_BYTES + u32::from_be_bytes(length) as usize
}

/// The frame or frames to put in place of a HEADERS frame; `None` if it is to stay.
fn mend_frame(frame: &[u8]) -> Option<Vec<u8>> {
    let (header, mut payload) = frame.split_at_checked(FRAME_HEADER_BYTES)?;
    let (flags, stream) = (header[4], &header[5..]);
    if flags & PADDED != 0 {
        let (padding, rest) = payload.split_first()?;
        payload = rest.get(..rest.len().checked_sub(usize::from(*padding))?)?;
    }
    let priority_bytes = if flags & PRIORITY == 0 {
        0
    } else {
        PRIORITY_BYTES
    };
    let (priority, fields) = payload.split_at_checked(priority_bytes)?;
    let payload = [priority, &mend_fields(fields)?].concat();
    let flags = flags & !PADDED;
    let mut mended = Vec::with_capacity(payload.len() + 2 * FRAME_HEADER_BYTES);
    let mut put = |kind: u8, flags: u8, payload: &[u8]| {
        mended.extend_from_slice(&(payload.len() as u32).to_be_bytes()[1..]);
        mended.extend_from_slice(&[kind, flags]);
        mended.extend_from_slice(stream);
        mended.extend_from_slice(payload);
    };
    match payload.split_at_checked(FRAME_PAYLOAD_BYTES_MAX) {
        Some((first, rest)) if !rest.is_empty() => {
            put(HEADERS, flags & !END_HEADERS, first);
            put(CONTINUATION, flags & END_HEADERS, rest);
        }
        _ => put(HEADERS, flags, &payload),
    }
    Some(mended)
}

/// HPACK's representation of some fields, with the authority mended; `None` if it is to stay.
fn mend_fields(fields: &[u8]) -> Option<Vec<u8>> {
    let mut rest = fields;
    loop {
        let name_bits = match *rest.first()? {
            0x80.. => {
                integer(&mut rest, 7)?;
                continue;
            }
            0x40.. => 6,
            0x20.. => {
                integer(&mut rest, 5)?;
                continue;
            }
            _ => 4,
        };
        let is_authority = match integer(&mut rest, name_bits)? {
            0 => string(&mut rest)?
                .text()
                .is_some_and(|name| name == b":authority"),
            index => index == AUTHORITY_INDEX,
        };
        let value_at = fields.len() - rest.len();
        let value = string(&mut rest)?;
        if is_authority {
            let value = mend_authority(&value.text()?)?;
            let mut mended = fields[..value_at].to_vec();
            put_length(value.len(), &mut mended);
            mended.extend_from_slice(&value);
            mended.extend_from_slice(rest);
            return Some(mended);
        }
    }
}

/// An authority as long as `given`, naming the same host if there is one in it; `None` if `given` is
/// good.
fn mend_authority(given: &[u8]) -> Option<Vec<u8>> {
    let is_good = |text: &[u8]| Authority::try_from(text).is_ok();
    if given.is_empty() || is_good(given) {
        return None;
    }
    let scheme_end = given
        .windows(3)
        .position(|text| text == b"://")
        .map_or(0, |at| at + 3);
    let host = given[scheme_end..].split(|byte| *byte == b'/').next()?;
    let host = host.rsplit(|byte| *byte == b'@').next()?;
    let mut mended = vec![b'-'; given.len()];
    let host_at = given.len() - host.len();
    if host_at > 1 && is_good(host) {
        mended[host_at - 1] = b'@';
        mended[host_at..].copy_from_slice(host);
    }
    Some(mended)
}
