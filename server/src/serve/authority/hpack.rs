//! Integers and strings of HPACK (RFC 7541), as far as a walk over fields needs them.

/// Characters by the length of their code in HPACK's Huffman code, in the order of their codes.
/// Longer codes belong to nothing that is typed as an endpoint.
const HUFFMAN: [&[u8]; 14] = [
    b"",
    b"",
    b"",
    b"",
    b"",
    b"012aceiost",
    b" %-./3456789=A_bdfghlmnpru",
    b":BCDEFGHIJKLMNOPQRSTUVWYjkqvwxyz",
    b"&*,;XZ",
    b"",
    b"!\"()?",
    b"'+|",
    b"#>",
    b"\0$@[]~",
];

/// Reads an integer that begins in the last `prefix_bits` of a byte.
pub(super) fn integer(input: &mut &[u8], prefix_bits: u32) -> Option<usize> {
    let mut next = || {
        let (byte, rest) = input.split_first()?;
        *input = rest;
        Some(usize::from(*byte))
    };
    let prefix_max = (1 << prefix_bits) - 1;
    let mut value = next()? & prefix_max;
    if value < prefix_max {
        return Some(value);
    }
    for shift in [0, 7, 14] {
        let byte = next()?;
        value += (byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// Writes the length of a string that is not in the Huffman code.
pub(super) fn put_length(length: usize, output: &mut Vec<u8>) {
    let Some(mut above) = length.checked_sub(0x7f) else {
        output.push(length as u8);
        return;
    };
    output.push(0x7f);
    while above > 0x7f {
        output.push(0x80 | (above & 0x7f) as u8);
        above >>= 7;
    }
    output.push(above as u8);
}

/// A string as it is represented.
pub(super) struct Text<'a> {
    pub(super) is_huffman: bool,
    pub(super) bytes: &'a [u8],
}

/// Reads a string.
pub(super) fn string<'a>(input: &mut &'a [u8]) -> Option<Text<'a>> {
    let is_huffman = input.first()? & 0x80 != 0;
    let length = integer(input, 7)?;
    let (bytes, rest) = input.split_at_checked(length)?;
    *input = rest;
    Some(Text { is_huffman, bytes })
}

impl Text<'_> {
    /// The string itself; `None` if it is malformed or has characters no endpoint has.
    pub(super) fn text(&self) -> Option<Vec<u8>> {
        if !self.is_huffman {
            return Some(self.bytes.to_vec());
        }
        let mut text = Vec::new();
        let (mut code, mut first, mut bits) = (0, 0, 0);
        for byte in self.bytes {
            for shift in (0..8).rev() {
                code = code << 1 | usize::from(byte >> shift & 1);
                first <<= 1;
                bits += 1;
                let characters = HUFFMAN.get(bits)?;
                match characters.get(code - first) {
                    Some(character) => {
                        text.push(*character);
                        (code, first, bits) = (0, 0, 0);
                    }
                    None => first += characters.len(),
                }
            }
        }
        let is_padding = bits < 8 && code == (1 << bits) - 1;
        is_padding.then_some(text)
    }
}
