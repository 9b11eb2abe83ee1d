use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::hpack::Text;
use super::*;

/// What etcdctl 3.4 sends for `--endpoints=http://127.0.0.1:29379 endpoint status`.
const STATUS_OF_URL: &[u8] = b"\x83\x86\x45\x97\x60\xa9\x24\x88\x2d\x9d\xcb\x65\x71\xaf\xa0\x66\xa9\x25\xa8\x75\x10\xac\x6e\x48\xd3\x6a\x3f\
\x41\x90\x9d\x29\xae\xe3\x0c\x04\x4e\xae\x05\xc0\xb8\x6e\x09\xf6\x5d\x7f\
\x5f\x8b\x1d\x75\xd0\x62\x0d\x26\x3d\x4c\x4d\x65\x64";
/// What it sends for `--endpoints=http://127.0.0.1:29379 get a`, up to the same field.
const GET_OF_ADDRESS: &[u8] =
    b"\x83\x86\x45\x90\x60\xa9\x24\x88\x2d\x9d\xcb\x65\x71\xaf\x9b\x8b\x1b\x47\x54\xc5\
\x41\x8b\x08\x9d\x5c\x0b\x81\x70\xdc\x13\xec\xba\xff\
\x5f\x8b\x1d\x75\xd0\x62\x0d\x26\x3d\x4c\x4d\x65\x64";
const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];

fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    frame.extend_from_slice(&[kind, flags, 0, 0, 0, 1]);
    frame.extend_from_slice(payload);
    frame
}

fn connection(frames: &[Vec<u8>]) -> Vec<u8> {
    [PREFACE, SETTINGS, &frames.concat()].concat()
}

fn literal(value: &[u8]) -> Vec<u8> {
    let mut field = vec![0x41];
    put_length(value.len(), &mut field);
    field.extend_from_slice(value);
    field
}

/// Feeds `input` in pieces of the sizes that `size` returns, and ends.
fn mended(input: &[u8], mut size: impl FnMut() -> usize) -> Vec<u8> {
    let mut mender = Mender::default();
    let mut output = BytesMut::new();
    let mut rest = input;
    while !rest.is_empty() {
        let (piece, after) = rest.split_at(size().min(rest.len()));
        mender.pass(piece, &mut output);
        rest = after;
    }
    mender.give_up(&mut output);
    output.to_vec()
}

fn mended_at_once(input: &[u8]) -> Vec<u8> {
    mended(input, || usize::MAX)
}

fn authority(given: &str) -> Option<String> {
    mend_authority(given.as_bytes()).map(|text| String::from_utf8(text).unwrap())
}

#[test]
fn a_url_becomes_its_host_and_port_at_the_same_length() {
    let cases = [
        ("http://127.0.0.1:2379", "------@127.0.0.1:2379"),
        ("https://node.example:2379/", "--------@node.example:2379"),
        ("http://[::1]:2379/a/b", "----------@[::1]:2379"),
        ("http://me:secret@host", "---------------@host"),
        ("a://h", "---@h"),
    ];
    for (given, expected) in cases {
        let got = authority(given).unwrap();
        assert_eq!(
            got.trim_start_matches('-'),
            expected.trim_start_matches('-')
        );
        assert_eq!(got.len(), given.len());
    }
}

#[test]
fn what_names_no_host_becomes_some_authority_of_the_same_length() {
    for given in [
        "unix:///run/b.sock",
        "/run/b.sock",
        "%2Frun%2Fb.sock/",
        "://",
        "a b",
        "h/",
        "\u{e9}",
    ] {
        let got = authority(given).unwrap();
        assert_eq!(got.len(), given.len());
        got.parse::<Authority>().unwrap();
    }
}

#[test]
fn authorities_stay_as_they_are() {
    for given in ["127.0.0.1:2379", "localhost", "[::1]:2379", "me@host:1", ""] {
        assert_eq!(authority(given), None);
    }
}

#[test]
fn the_huffman_code_is_read() {
    let text = Text {
        is_huffman: true,
        bytes: &STATUS_OF_URL[29..45],
    };
    assert_eq!(text.text().unwrap(), b"http://127.0.0.1:29379");
    let brackets = Text {
        is_huffman: true,
        bytes: &[0xff, 0xdb, 0x8b, 0x9f, 0xfc, 0xff],
    };
    assert_eq!(brackets.text(), None, "the padding is too long");
}

#[test]
fn a_captured_request_is_mended_wherever_its_bytes_are_cut() {
    let frames = [
        frame(HEADERS, END_HEADERS, STATUS_OF_URL),
        frame(0, 1, &[0; 5]),
        frame(HEADERS, END_HEADERS, &[0x83, 0x86, 0xbe, 0xbf]),
    ];
    let input = connection(&frames);
    let fields = [
        &STATUS_OF_URL[..28],
        b"\x16------@127.0.0.1:29379".as_slice(),
        &STATUS_OF_URL[45..],
    ];
    let first = frame(HEADERS, END_HEADERS, &fields.concat());
    let expected = connection(&[first, frames[1].clone(), frames[2].clone()]);
    assert_eq!(mended_at_once(&input), expected);
    for size in 1..input.len() {
        assert_eq!(mended(&input, || size), expected, "pieces of {size}");
        let mut sizes = [size, usize::MAX].into_iter();
        assert_eq!(
            mended(&input, || sizes.next().unwrap()),
            expected,
            "cut at {size}"
        );
    }
}

#[test]
fn later_requests_of_a_mended_connection_are_mended_too() {
    let url = frame(HEADERS, END_HEADERS, &literal(b"http://h:1"));
    let good = frame(HEADERS, END_HEADERS, &literal(b"h:1"));
    let output = mended_at_once(&connection(&[url.clone(), good.clone(), url]));
    let mended = frame(HEADERS, END_HEADERS, &literal(b"------@h:1"));
    assert_eq!(output, connection(&[mended.clone(), good, mended]));
}

#[test]
fn a_connection_that_begins_well_passes_unchanged() {
    let good = frame(HEADERS, END_HEADERS, GET_OF_ADDRESS);
    let url = frame(HEADERS, END_HEADERS, STATUS_OF_URL);
    let input = connection(&[good, url, vec![7; 300]]);
    for size in 1..100 {
        assert_eq!(mended(&input, || size), input);
    }
}

#[test]
fn other_protocols_and_connections_cut_short_pass_unchanged() {
    let http1 = b"PRINT /health HTTP/1.1\r\n\r\n";
    assert_eq!(mended_at_once(http1), http1);
    let input = connection(&[frame(HEADERS, END_HEADERS, STATUS_OF_URL)]);
    for end in 0..input.len() {
        assert_eq!(mended(&input[..end], || 7), &input[..end]);
    }
}

#[test]
fn names_spelled_out_and_fields_of_every_kind_are_understood() {
    let mut fields = vec![
        0x3f, 0xe1, 0x1f, 0x82, 0x44, 1, b'/', 0x0f, 0x2f, 1, b'a', 0x10, 1, b'n', 1, b'v',
    ];
    fields.extend_from_slice(b"\x00\x0a:authority\x0ahttp://h:1\x84");
    let output = mend_fields(&fields).unwrap();
    let at = fields.len() - 12;
    assert_eq!(output[..at], fields[..at]);
    assert_eq!(&output[at..], b"\x0a------@h:1\x84");
}

#[test]
fn priority_stays_and_padding_goes() {
    let fields = literal(b"http://h:1");
    let payload = [&[3, 0x80, 0, 0, 0, 9], fields.as_slice(), &[0; 3]].concat();
    let flags = END_HEADERS | PADDED | PRIORITY | 1;
    let expected = [&[0x80, 0, 0, 0, 9], literal(b"------@h:1").as_slice()].concat();
    let expected = frame(HEADERS, END_HEADERS | PRIORITY | 1, &expected);
    assert_eq!(
        mend_frame(&frame(HEADERS, flags, &payload)).unwrap(),
        expected
    );
}

#[test]
fn malformed_padding_and_fields_are_left_to_the_library() {
    let url = literal(b"http://h:1");
    let padded = [&[200], url.as_slice()].concat();
    let cases = [
        frame(HEADERS, END_HEADERS | PADDED, &padded),
        frame(HEADERS, END_HEADERS | PRIORITY, &[0; 4]),
        frame(HEADERS, END_HEADERS, &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff]),
        frame(HEADERS, END_HEADERS, &[0x41, 0x7f, 0xff, 0xff, 0x7f]),
        frame(HEADERS, END_HEADERS, &url[..5]),
        frame(HEADERS, END_HEADERS, &[]),
        frame(
            HEADERS,
            END_HEADERS,
            &[&[0; FRAME_PAYLOAD_BYTES_MAX], url.as_slice()].concat(),
        ),
    ];
    for case in cases {
        let input = connection(&[case, frame(HEADERS, END_HEADERS, &url)]);
        assert_eq!(mended_at_once(&input), input);
    }
}

#[test]
fn what_outgrows_its_frame_is_continued_in_another() {
    // 16 bytes in the Huffman code, 22 without.
    let url = &STATUS_OF_URL[27..45];
    let filler = FRAME_PAYLOAD_BYTES_MAX - url.len();
    let fields = [url, &vec![0x82; filler]].concat();
    let output = mend_frame(&frame(HEADERS, END_HEADERS | 1, &fields)).unwrap();
    let (first, second) = output.split_at(frame_bytes(&output));
    assert_eq!(first.len(), FRAME_HEADER_BYTES + FRAME_PAYLOAD_BYTES_MAX);
    assert_eq!(first[3..5], [HEADERS, 1]);
    assert_eq!(second, frame(CONTINUATION, END_HEADERS, &[0x82; 6]));
}

#[test]
fn random_bytes_never_panic_and_never_vanish() {
    use rand::{Rng, SeedableRng};
    let mut random = rand::rngs::SmallRng::seed_from_u64(7);
    let url = connection(&[frame(
        HEADERS,
        END_HEADERS | PADDED | PRIORITY,
        STATUS_OF_URL,
    )]);
    for _ in 0..20_000 {
        let mut input = url.clone();
        for _ in 0..random.random_range(1..6) {
            let at = random.random_range(PREFACE.len()..input.len());
            input[at] = random.random();
        }
        let output = mended(&input, || random.random_range(1..40));
        assert!(output.len() + 260 > input.len());
    }
}

#[tokio::test]
async fn a_reader_gets_all_of_it_through_a_buffer_of_any_size() {
    let input = connection(&[
        frame(HEADERS, END_HEADERS, &literal(b"http://h:1")),
        vec![0; 900],
    ]);
    let expected = connection(&[
        frame(HEADERS, END_HEADERS, &literal(b"------@h:1")),
        vec![0; 900],
    ]);
    for size in [1, 5, 64, 4096] {
        let (mut client, server) = tokio::io::duplex(size);
        let sent = input.clone();
        let writer = tokio::spawn(async move { client.write_all(&sent).await });
        let mut output = Vec::new();
        let mut reader = Mended::new(server).take(u64::MAX);
        reader.read_to_end(&mut output).await.unwrap();
        writer.await.unwrap().unwrap();
        assert_eq!(output, expected);
    }
}
