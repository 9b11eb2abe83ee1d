//! One seed, many independent streams of chance.
//!
//! Every part of a run draws from a stream named after it, so that adding a fault or a client does not shift what the
//! others draw.

use rand::SeedableRng;
use rand::rngs::SmallRng;

/// The seed of the stream `name` within `seed`: FNV-1a, finished by the mixer of splitmix64.
pub fn stream_seed(seed: u64, name: &str) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325 ^ seed;
    for byte in name.bytes() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

/// The stream `name` within `seed`.
pub fn stream(seed: u64, name: &str) -> SmallRng {
    SmallRng::seed_from_u64(stream_seed(seed, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_of_different_names_and_seeds_differ() {
        let seeds = [
            stream_seed(1, "net"),
            stream_seed(1, "disk"),
            stream_seed(2, "net"),
            stream_seed(2, "disk"),
        ];
        let distinct: std::collections::BTreeSet<u64> = seeds.into_iter().collect();
        assert_eq!(distinct.len(), seeds.len());
    }
}
