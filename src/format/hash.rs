//! A hash that stays the same over releases, for what is kept in the state directory. It does not resist somebody who
//! chooses the bytes.

/// The hash of nothing.
pub(crate) const FNV_START: u64 = 0xcbf2_9ce4_8422_2325;

/// FNV-1a, 64 bits: goes on from `start` over `bytes`.
pub(crate) fn fnv1a(start: u64, bytes: impl IntoIterator<Item = u8>) -> u64 {
    bytes
        .into_iter()
        .fold(start, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

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
    }
}
