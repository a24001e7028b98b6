//! What a parser says of bytes that only SQLite itself may judge.

/// Something that SQLite as we know it does not write, and where it was seen. It says nothing about damage, but that SQLite
/// must be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unrecognised(pub &'static str);

/// Reads a number as SQLite and FTS5 store them (`sqlite3GetVarint`): big-endian groups of seven bits, the ninth byte whole.
/// Moves `at` behind it. Errs when the bytes end before.
#[inline]
pub(super) fn varint(bytes: &[u8], at: &mut usize) -> Result<u64, Unrecognised> {
    match bytes.get(*at) {
        Some(byte) if *byte < 0x80 => {
            *at += 1;
            Ok(u64::from(*byte))
        }
        _ => varint_long(bytes, at),
    }
}

fn varint_long(bytes: &[u8], at: &mut usize) -> Result<u64, Unrecognised> {
    let mut value = 0;
    for nth in 0..9 {
        let byte = *bytes.get(*at).ok_or(Unrecognised("a number that ends too early"))?;
        *at += 1;
        if nth == 8 {
            return Ok(value << 8 | u64::from(byte));
        }
        value = value << 7 | u64::from(byte & 0x7f);
        if byte < 0x80 {
            break;
        }
    }
    Ok(value)
}

/// The same for lengths and page numbers, which must fit 31 bits. Errs for a larger one too.
#[inline]
pub(super) fn varint_small(bytes: &[u8], at: &mut usize) -> Result<u32, Unrecognised> {
    let value = varint(bytes, at)?;
    u32::try_from(value)
        .ok()
        .filter(|value| *value <= 0x7fff_ffff)
        .ok_or(Unrecognised("a number too large"))
}
