//! Who stands in line under a name: live keys of a directory, in the order of their create revisions.

use bytes::Bytes;

use crate::State;
use crate::key_range::KeyRange;

impl State {
    /// The create revision of a key, `None` where it does not exist.
    pub fn create_revision(&self, key: &[u8]) -> Option<i64> {
        self.index.get(key)?.created()
    }

    /// The revision of a key's last modification, `None` where it does not exist.
    pub fn mod_revision(&self, key: &[u8]) -> Option<i64> {
        Some(self.index.get(key)?.live()?.0.main)
    }

    /// The key of `directory` created last before `create_revision`.
    pub fn predecessor(&self, directory: &KeyRange, create_revision: i64) -> Option<&Bytes> {
        let before = create_revision - 1;
        let Some(covering) = self.index.covering(directory) else {
            let created = self.created_in(directory);
            let earlier = created.filter(|(created, _)| *created <= before);
            return Some(earlier.max()?.1);
        };
        let last = covering.last_created(i64::MIN, before, 1);
        last.into_iter()
            .max_by_key(|key| (self.create_revision(key), *key))
    }

    /// The key of `directory` created first.
    pub fn first_created(&self, directory: &KeyRange) -> Option<&Bytes> {
        let Some(covering) = self.index.covering(directory) else {
            return Some(self.created_in(directory).min()?.1);
        };
        let first = covering.first_created(i64::MIN, i64::MAX, 1);
        first
            .into_iter()
            .min_by_key(|key| (self.create_revision(key), *key))
    }

    /// By a scan: the index keeps no order over so many directories.
    fn created_in(&self, directory: &KeyRange) -> impl Iterator<Item = (i64, &Bytes)> {
        let keys = self.index.range(directory);
        keys.filter_map(|(key, entry)| Some((entry.created()?, key)))
    }
}
