//! Values in the spelling of Go's `flag` and `time` packages, which etcd's flags use.

use std::time::Duration;

/// What a value has to look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Anything.
    Text,
    /// `true`, `false`, `1`, `0`, `t`, `f` and their capitals; the flag alone means `true`.
    Bool,
    /// A whole number.
    Int,
    /// A whole number, not negative.
    Uint,
    /// `1h30m`, `100ms`, `0`.
    Duration,
}

/// Why a value does not fit its [`Kind`].
pub(super) fn check(kind: Kind, text: &str) -> Result<(), &'static str> {
    let fits = match kind {
        Kind::Text => true,
        Kind::Bool => parse_bool(text).is_some(),
        Kind::Int => parse_int(text).is_some(),
        Kind::Uint => parse_int(text).is_some_and(|n| n >= 0),
        Kind::Duration => parse_duration(text).is_some(),
    };
    if fits { Ok(()) } else { Err("parse error") }
}

pub(super) fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// Wide enough for both of Go's 64-bit kinds.
pub(super) fn parse_int(text: &str) -> Option<i128> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let number = match digits.get(..2) {
        Some("0x" | "0X") => i128::from(u64::from_str_radix(&digits[2..], 16).ok()?),
        Some("0o" | "0O") => i128::from(u64::from_str_radix(&digits[2..], 8).ok()?),
        Some("0b" | "0B") => i128::from(u64::from_str_radix(&digits[2..], 2).ok()?),
        _ if digits.bytes().all(|b| b.is_ascii_digit()) => i128::from(digits.parse::<u64>().ok()?),
        _ => return None,
    };
    Some(if negative { -number } else { number })
}

/// Reads `1h30m`; `None` also for a negative one, which no flag has a use for.
pub(super) fn parse_duration(text: &str) -> Option<Duration> {
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Some(Duration::ZERO);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total_ns: u128 = 0;
    while !rest.is_empty() {
        let number_len = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(number_len);
        let unit_len = after
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(after.len());
        let (unit, next) = after.split_at(unit_len);
        let unit_ns: u128 = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return None,
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() && fraction.is_empty() {
            return None;
        }
        if !whole.is_empty() {
            total_ns += whole.parse::<u64>().ok().map(u128::from)? * unit_ns;
        }
        let mut digit_ns = unit_ns;
        for digit in fraction.bytes() {
            if !digit.is_ascii_digit() {
                return None;
            }
            digit_ns /= 10;
            total_ns += u128::from(digit - b'0') * digit_ns;
        }
        rest = next;
    }
    // Go's durations are 63-bit nanoseconds.
    let total_ns = i64::try_from(total_ns).ok()?;
    Some(Duration::from_nanos(total_ns.unsigned_abs()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_go_reads_them() {
        for (text, ms) in [
            ("0", Some(0)),
            ("100ms", Some(100)),
            ("1h2m3s", Some(3_723_000)),
            ("1.5s", Some(1500)),
            (".5s", Some(500)),
            ("2000us", Some(2)),
            ("10", None),
            ("", None),
            ("s", None),
            ("1.2.3s", None),
            ("1d", None),
            ("-1s", None),
            ("9999999999h", None),
        ] {
            assert_eq!(parse_duration(text).map(|d| d.as_millis()), ms, "{text}");
        }
    }

    #[test]
    fn numbers_take_go_prefixes_and_nothing_else() {
        for (text, number) in [
            ("12", Some(12)),
            ("-1", Some(-1)),
            ("0x10", Some(16)),
            ("18446744073709551615", Some(i128::from(u64::MAX))),
            ("", None),
            ("1e3", None),
            ("1 ", None),
            ("--1", None),
            ("é1", None),
        ] {
            assert_eq!(parse_int(text), number, "{text}");
        }
    }
}
