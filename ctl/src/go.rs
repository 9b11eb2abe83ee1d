//! Go's way to read and to write numbers, durations and strings, which scripts around `etcdctl` rely on.

use std::fmt::Write as _;
use std::time::Duration;

/// Reads an integer as `strconv.ParseInt` does, and fails in its words.
pub fn parse_int(text: &str, base: u32) -> Result<i64, String> {
    i64::from_str_radix(text, base).map_err(|error| number_error("ParseInt", text, &error))
}

/// Reads an integer as `strconv.ParseUint` does, and fails in its words.
pub fn parse_uint(text: &str, base: u32) -> Result<u64, String> {
    let plain = !text.starts_with('+');
    u64::from_str_radix(if plain { text } else { "" }, base)
        .map_err(|error| number_error("ParseUint", text, &error))
}

fn number_error(function: &str, text: &str, error: &std::num::ParseIntError) -> String {
    use std::num::IntErrorKind::{NegOverflow, PosOverflow};
    let why = match error.kind() {
        PosOverflow | NegOverflow => "value out of range",
        _ => "invalid syntax",
    };
    format!(
        "strconv.{function}: parsing {}: {why}",
        quote(text.as_bytes())
    )
}

/// A number of a flag, which says its base itself: `12`, `0xc`, `0o14`, `014`, `0b1100`.
pub fn int_flag(text: &str) -> Result<i64, String> {
    let (sign, digits) = match text.strip_prefix(['-', '+']) {
        Some(digits) => (&text[..1], digits),
        None => ("", text),
    };
    let lower = digits.to_ascii_lowercase();
    let (base, digits) = match lower.as_bytes() {
        [b'0', b'x', ..] => (16, &lower[2..]),
        [b'0', b'o', ..] => (8, &lower[2..]),
        [b'0', b'b', ..] => (2, &lower[2..]),
        [b'0', _, ..] => (8, &lower[1..]),
        _ => return parse_int(text, 10),
    };
    let unsigned = !digits.starts_with(['-', '+']);
    let number = if unsigned {
        format!("{sign}{digits}")
    } else {
        String::new()
    };
    i64::from_str_radix(&number, base).map_err(|error| number_error("ParseInt", text, &error))
}

/// A number of bytes or operations of a flag; not negative.
pub fn size_flag(text: &str) -> Result<usize, String> {
    let number = parse_uint(text, 10)?;
    usize::try_from(number).map_err(|error| error.to_string())
}

/// Reads a truth value as `strconv.ParseBool` does.
pub fn parse_bool(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(format!(
            "strconv.ParseBool: parsing {}: invalid syntax",
            quote(text.as_bytes())
        )),
    }
}

/// Reads a duration as Go writes it: `5s`, `1m30s`, `250ms`, `1.5h`. Not negative.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let invalid = || format!("time: invalid duration {}", quote(text.as_bytes()));
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| c != '.' && !c.is_ascii_digit())
            .ok_or_else(|| format!("time: missing unit in duration {}", quote(text.as_bytes())))?;
        let number: f64 = rest[..digits].parse().map_err(|_| invalid())?;
        rest = &rest[digits..];
        let end = rest
            .find(|c: char| c == '.' || c.is_ascii_digit())
            .unwrap_or(rest.len());
        let seconds = match &rest[..end] {
            "ns" => 1e-9,
            "us" | "µs" | "μs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            unit => {
                return Err(format!(
                    "time: unknown unit {} in duration {}",
                    quote(unit.as_bytes()),
                    quote(text.as_bytes())
                ));
            }
        };
        let part = Duration::try_from_secs_f64(number * seconds).map_err(|_| invalid())?;
        total = total.checked_add(part).ok_or_else(invalid)?;
        rest = &rest[end..];
    }
    Ok(total)
}

/// Writes a duration as Go does: `1.059569ms`, `2m0.5s`.
pub fn duration(time: Duration) -> String {
    let nanos = time.as_nanos();
    let fraction = |unit: u128| {
        let mut text = (nanos / unit).to_string();
        let rest = nanos % unit;
        if rest > 0 {
            let width = unit.ilog10() as usize;
            let digits = format!("{rest:0width$}");
            text = format!("{text}.{}", digits.trim_end_matches('0'));
        }
        text
    };
    match nanos {
        0 => "0s".to_owned(),
        1..1_000 => format!("{nanos}ns"),
        1_000..1_000_000 => format!("{}µs", fraction(1_000)),
        1_000_000..1_000_000_000 => format!("{}ms", fraction(1_000_000)),
        _ => {
            let seconds = time.as_secs();
            let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
            let below_a_minute = Duration::new(seconds % 60, time.subsec_nanos());
            let mut text = String::new();
            if hours > 0 {
                let _ = write!(text, "{hours}h");
            }
            if seconds >= 60 {
                let _ = write!(text, "{minutes}m");
            }
            let rest = below_a_minute.as_nanos();
            let (whole, part) = (rest / 1_000_000_000, rest % 1_000_000_000);
            if part == 0 {
                let _ = write!(text, "{whole}s");
            } else {
                let digits = format!("{part:09}");
                let _ = write!(text, "{whole}.{}s", digits.trim_end_matches('0'));
            }
            text
        }
    }
}

/// A number of bytes for people: `20 kB`, `2.1 GB`; units of a thousand.
#[expect(
    clippy::cast_precision_loss,
    reason = "two digits are shown, of far more that are right"
)]
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    if count < 10 {
        return format!("{count} B");
    }
    let mut unit = 0;
    let mut size = count as f64;
    while size >= 1000.0 && unit + 1 < UNITS.len() {
        size /= 1000.0;
        unit += 1;
    }
    let size = (size * 10.0 + 0.5).floor() / 10.0;
    if size < 10.0 {
        format!("{size:.1} {}", UNITS[unit])
    } else {
        format!("{size:.0} {}", UNITS[unit])
    }
}

/// Writes bytes as `%q` does: in double quotes, unprintable ones escaped.
pub fn quote(bytes: &[u8]) -> String {
    let mut quoted = String::with_capacity(bytes.len() + 2);
    quoted.push('"');
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '"' => quoted.push_str("\\\""),
                '\\' => quoted.push_str("\\\\"),
                '\x07' => quoted.push_str("\\a"),
                '\x08' => quoted.push_str("\\b"),
                '\x0c' => quoted.push_str("\\f"),
                '\n' => quoted.push_str("\\n"),
                '\r' => quoted.push_str("\\r"),
                '\t' => quoted.push_str("\\t"),
                '\x0b' => quoted.push_str("\\v"),
                c if is_printable(c) => quoted.push(c),
                c if c < ' ' || c == '\x7f' => {
                    let _ = write!(quoted, "\\x{:02x}", u32::from(c));
                }
                c if c <= '\u{ffff}' => {
                    let _ = write!(quoted, "\\u{:04x}", u32::from(c));
                }
                c => {
                    let _ = write!(quoted, "\\U{:08x}", u32::from(c));
                }
            }
        }
        for byte in chunk.invalid() {
            let _ = write!(quoted, "\\x{byte:02x}");
        }
    }
    quoted.push('"');
    quoted
}

/// Whether Rust prints it as it is in a string, which is what Go prints as well. Behind another letter, so that
/// marks that combine with one count as printable.
fn is_printable(c: char) -> bool {
    let mut text = String::from("a");
    text.push(c);
    c == '\'' || text.escape_debug().skip(1).eq([c])
}

/// Reads a double-quoted string at the start of `text`; returns its bytes and what follows.
pub fn unquote(text: &str) -> Option<(Vec<u8>, &str)> {
    let mut rest = text.strip_prefix('"')?;
    let mut unquoted = Vec::new();
    loop {
        let c = rest.chars().next()?;
        rest = &rest[c.len_utf8()..];
        match c {
            '"' => return Some((unquoted, rest)),
            '\n' => return None,
            '\\' => {
                let escape = rest.chars().next()?;
                rest = &rest[escape.len_utf8()..];
                let digits = match escape {
                    'a' => {
                        unquoted.push(0x07);
                        continue;
                    }
                    'b' => {
                        unquoted.push(0x08);
                        continue;
                    }
                    'f' => {
                        unquoted.push(0x0c);
                        continue;
                    }
                    'n' => {
                        unquoted.push(b'\n');
                        continue;
                    }
                    'r' => {
                        unquoted.push(b'\r');
                        continue;
                    }
                    't' => {
                        unquoted.push(b'\t');
                        continue;
                    }
                    'v' => {
                        unquoted.push(0x0b);
                        continue;
                    }
                    '\\' => {
                        unquoted.push(b'\\');
                        continue;
                    }
                    '"' => {
                        unquoted.push(b'"');
                        continue;
                    }
                    'x' => 2,
                    'u' => 4,
                    'U' => 8,
                    '0'..='7' => {
                        let octal = text_before(rest, 2)?;
                        let value = u32::from_str_radix(&format!("{escape}{octal}"), 8).ok()?;
                        unquoted.push(u8::try_from(value).ok()?);
                        rest = &rest[2..];
                        continue;
                    }
                    _ => return None,
                };
                let hex = text_before(rest, digits)?;
                let value = u32::from_str_radix(hex, 16).ok()?;
                rest = &rest[digits..];
                if digits == 2 {
                    unquoted.push(u8::try_from(value).ok()?);
                } else {
                    let c = char::from_u32(value)?;
                    unquoted.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                }
            }
            c => unquoted.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
}

/// The first `count` characters, if they are digits of some base.
fn text_before(text: &str, count: usize) -> Option<&str> {
    let digits = text.get(..count)?;
    digits
        .bytes()
        .all(|byte| byte.is_ascii_hexdigit())
        .then_some(digits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_and_written_as_go_does() {
        for (text, written) in [
            ("5s", "5s"),
            ("1m30s", "1m30s"),
            ("90s", "1m30s"),
            ("1.5h", "1h30m0s"),
            ("250ms", "250ms"),
            ("1.059569ms", "1.059569ms"),
            ("2m0.5s", "2m0.5s"),
            ("12us", "12µs"),
            ("0", "0s"),
        ] {
            let time = parse_duration(text).expect("a duration");
            assert_eq!(duration(time), written, "{text}");
        }
    }

    #[test]
    fn durations_that_are_none_are_refused_in_gos_words() {
        let refusal = |text| parse_duration(text).expect_err("no duration");
        assert_eq!(refusal("foo"), r#"time: invalid duration "foo""#);
        assert_eq!(refusal(""), r#"time: invalid duration """#);
        assert_eq!(refusal("5"), r#"time: missing unit in duration "5""#);
        assert_eq!(refusal("5x"), r#"time: unknown unit "x" in duration "5x""#);
    }

    #[test]
    fn numbers_that_are_none_are_refused_in_gos_words() {
        let refusal = |text| parse_int(text, 16).expect_err("no number");
        assert_eq!(
            refusal("zz"),
            r#"strconv.ParseInt: parsing "zz": invalid syntax"#
        );
        assert_eq!(
            refusal("ffffffffffffffffff"),
            r#"strconv.ParseInt: parsing "ffffffffffffffffff": value out of range"#
        );
        assert_eq!(parse_int("-5", 16), Ok(-5));
        for (text, number) in [
            ("12", 12),
            ("0xC", 12),
            ("-0b1100", -12),
            ("014", 12),
            ("0o14", 12),
            ("0", 0),
        ] {
            assert_eq!(int_flag(text), Ok(number), "{text}");
        }
        for text in ["", "0x", "0x-1", "09", "1e3"] {
            let refusal = int_flag(text).expect_err("no number");
            assert!(refusal.contains(&format!("parsing {text:?}")), "{refusal}");
        }
        assert!(parse_uint("+5", 16).is_err() && parse_uint("-5", 16).is_err());
    }

    #[test]
    fn quoted_bytes_read_back_as_they_were() {
        let all: Vec<u8> = (0..=255).collect();
        for bytes in [
            &all[..],
            "a\"b\\c\n é \u{301}\u{a0}\u{1f600}\u{fffe}".as_bytes(),
        ] {
            let quoted = quote(bytes);
            let (read, rest) = unquote(&quoted).expect("a quoted string");
            assert_eq!((read.as_slice(), rest), (bytes, ""), "{quoted}");
        }
    }

    #[test]
    fn sizes_have_two_digits_and_a_unit() {
        for (count, text) in [
            (0, "0 B"),
            (20_480, "20 kB"),
            (999, "999 B"),
            (1_500, "1.5 kB"),
            (2_147_483_648, "2.1 GB"),
        ] {
            assert_eq!(bytes(count), text);
        }
    }
}
