//! Hashes that stay the same over releases, for what is kept in the state directory. They do not resist somebody who
//! chooses the bytes.

/// The FNV-1a hash of nothing.
pub const FNV_START: u64 = 0xcbf2_9ce4_8422_2325;

/// FNV-1a, 64 bits: goes on from `start` over `bytes`.
pub fn fnv1a(start: u64, bytes: impl IntoIterator<Item = u8>) -> u64 {
    bytes
        .into_iter()
        .fold(start, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// A hash of a path for tables of very many: eight bytes at a step, every bit of it good.
#[must_use]
pub fn path_hash(path: &[u8]) -> u64 {
    let mix = |hash: u64, word: u64| {
        let hash = (hash ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        hash ^ hash >> 32
    };
    let (words, rest) = path.as_chunks::<8>();
    let hash = words
        .iter()
        .fold(FNV_START ^ path.len() as u64, |hash, word| mix(hash, u64::from_le_bytes(*word)));
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    // Two more rounds, so that the last bytes reach the first bits.
    mix(mix(mix(hash, u64::from_le_bytes(last)), 0), 0)
}

/// The two halves of the product, one laid over the other: every bit of both factors reaches every bit. For sums over very
/// many, which nobody keeps.
#[inline]
#[expect(clippy::cast_possible_truncation, reason = "each half on its own")]
pub(super) fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}

/// Arbitrary odd numbers with half of their bits set: the first digits of π, e, √2 and √3 behind the point.
pub(super) const SEEDS: [u64; 4] =
    [0x243f_6a88_85a3_08d3, 0xb7e1_5162_8aed_2a6b, 0x6a09_e667_f3bc_c909, 0xbb67_ae85_84ca_a73b];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_values_do_not_change() {
        for (bytes, hash) in [
            (&b""[..], 0xcbf2_9ce4_8422_2325_u64),
            (b"a", 0xaf63_dc4c_8601_ec8c),
            (b"foobar", 0x8594_4171_f739_67e8),
        ] {
            assert_eq!(fnv1a(FNV_START, bytes.iter().copied()), hash);
        }
        assert_eq!(fnv1a(fnv1a(FNV_START, *b"foo"), *b"bar"), fnv1a(FNV_START, *b"foobar"));
        assert_eq!(path_hash(b""), 0xd44f_3541_83b6_d328);
        assert_eq!(path_hash(b"chroma.sqlite3"), 0x162e_991f_788d_f9d3);
    }

    #[test]
    fn paths_that_differ_little_are_spread_evenly() {
        let mut first_bits = vec![0_u32; 1024];
        let mut all = std::collections::BTreeSet::new();
        for folder in 0..20_000 {
            for name in ["header.bin", "length.bin", "link_lists.bin"] {
                let path = format!("{folder:08x}-0000-4000-8000-000000000000/{name}");
                let hash = path_hash(path.as_bytes());
                first_bits[usize::try_from(hash >> 54).unwrap()] += 1;
                assert!(all.insert(hash >> 11), "{path}");
            }
        }
        let most = first_bits.iter().max().unwrap();
        assert!(*most < 100, "{most} of 60,000 in one of 1,024 shards");
    }
}
