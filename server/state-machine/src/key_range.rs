//! Which keys a request means.

use std::ops::Bound;

use bytes::Bytes;

/// A set of keys as the wire spells it: one key, all keys from one on, or a half-open interval.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRange {
    start: Bytes,
    end: End,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum End {
    /// Only `start`.
    Single,
    /// Everything from `start` on.
    Unbounded,
    /// Up to, without it.
    Before(Bytes),
}

impl KeyRange {
    /// The range of `key` and `range_end`: an empty `range_end` means the one key, a single zero
    /// byte everything from `key` on. An end that is not above `key` makes an empty range.
    pub fn new(key: Bytes, range_end: Bytes) -> Self {
        let end = match &range_end[..] {
            [] => End::Single,
            [0] => End::Unbounded,
            _ => End::Before(range_end),
        };
        KeyRange { start: key, end }
    }

    /// Every key there is.
    pub fn all() -> Self {
        KeyRange {
            start: Bytes::new(),
            end: End::Unbounded,
        }
    }

    /// Every key below `name` as a directory: those that begin with `name` and a `/`.
    pub fn directory(name: &[u8]) -> Self {
        KeyRange {
            start: [name, b"/"].concat().into(),
            end: End::Before([name, &[b'/' + 1]].concat().into()),
        }
    }

    /// The `key` and `range_end` that spell it.
    pub fn bounds_on_wire(&self) -> (Bytes, Bytes) {
        let end = match &self.end {
            End::Single => Bytes::new(),
            End::Unbounded => Bytes::from_static(&[0]),
            End::Before(end) => end.clone(),
        };
        (self.start.clone(), end)
    }

    /// The lowest key it can contain.
    pub fn start(&self) -> &Bytes {
        &self.start
    }

    /// Whether `key` is in it.
    pub fn contains(&self, key: &[u8]) -> bool {
        match &self.end {
            End::Single => key == self.start,
            End::Unbounded => key >= &self.start[..],
            End::Before(end) => key >= &self.start[..] && key < &end[..],
        }
    }

    /// Whether it means one key by name.
    pub fn is_single(&self) -> bool {
        self.end == End::Single
    }

    /// Whether no key can be in it.
    pub fn is_empty(&self) -> bool {
        matches!(&self.end, End::Before(end) if *end <= self.start)
    }

    /// Whether it has no upper end.
    pub fn is_unbounded(&self) -> bool {
        self.end == End::Unbounded
    }

    /// Whether it holds exactly the keys that begin with `start`, and `start` ends in `/`.
    pub(crate) fn is_directory(&self) -> bool {
        match (&self.end, self.start.split_last()) {
            (End::Before(end), Some((b'/', parents))) => {
                end.split_last() == Some((&(b'/' + 1), parents))
            }
            _ => false,
        }
    }

    /// The bounds of what is left after `after`, in a form ordered maps accept without panicking.
    pub(crate) fn bounds_after<'a>(
        &'a self,
        after: Option<&'a Bytes>,
    ) -> (Bound<&'a [u8]>, Bound<&'a [u8]>) {
        let low = match after {
            Some(key) => Bound::Excluded(&key[..]),
            None => Bound::Included(&self.start[..]),
        };
        let high = match &self.end {
            End::Single => Bound::Included(&self.start[..]),
            End::Unbounded => Bound::Unbounded,
            // An inverted interval would be a panic in the map; the empty one at `start` is not.
            End::Before(end) if *end <= self.start => Bound::Excluded(&self.start[..]),
            End::Before(end) => Bound::Excluded(&end[..]),
        };
        (low, high)
    }

    pub(crate) fn bounds(&self) -> (Bound<&[u8]>, Bound<&[u8]>) {
        self.bounds_after(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(key: &'static [u8], end: &'static [u8]) -> KeyRange {
        KeyRange::new(Bytes::from_static(key), Bytes::from_static(end))
    }

    #[test]
    fn an_empty_range_end_means_the_one_key() {
        let one = range(b"k", b"");
        assert!(one.is_single() && one.contains(b"k") && !one.contains(b"k0"));
    }

    #[test]
    fn a_zero_byte_as_range_end_means_everything_from_the_key_on() {
        let from = range(b"k", b"\0");
        assert!(from.contains(b"k") && from.contains(b"\xff\xff") && !from.contains(b"j"));
        assert!(range(b"\0", b"\0").contains(b"\0"));
    }

    #[test]
    fn an_interval_excludes_its_end() {
        let interval = range(b"a", b"c");
        assert!(interval.contains(b"a") && interval.contains(b"b\xff") && !interval.contains(b"c"));
    }

    #[test]
    fn an_end_that_is_not_above_the_key_makes_an_empty_range() {
        for empty in [range(b"b", b"a"), range(b"b", b"b")] {
            assert!(empty.is_empty() && !empty.contains(b"b") && !empty.contains(b"a"));
            let map = std::collections::BTreeMap::from([(Bytes::from_static(b"b"), ())]);
            assert_eq!(map.range::<[u8], _>(empty.bounds()).count(), 0);
        }
    }
}
