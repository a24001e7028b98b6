//! The tokenizer `trigram` (`fts5TriTokenize`): every three characters that follow each other, folded to lower case.

use super::{
    Unrecognised,
    sum::{Row, Sum},
};

/// The tokenizer with its options.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trigrams {
    /// Whether upper and lower case are one.
    pub folds: bool,
}

/// The part of a text that SQLite up to 3.46 makes tokens of: its tokenizer stops at the first U+0000, that of later ones
/// passes over it. `None` when there is none.
#[must_use]
pub fn before_nul(text: &[u8]) -> Option<&[u8]> {
    // A single pass over what is nearly always all of it.
    if !text.contains(&0) {
        return None;
    }
    text.split(|byte| *byte == 0).next()
}

impl Trigrams {
    /// How many tokens a text has, of as many as can be told; see [`Self::add`]. Errs as [`Self::add`] does.
    pub fn count(self, text: &[u8]) -> Result<u64, Unrecognised> {
        self.add(0, text, &mut Sum::default())
    }

    /// Adds the tokens of a text to `sum`, and says how many there are. Bytes that are no UTF-8 are read as FTS5 reads
    /// them; what it makes characters of that Unicode has not is unrecognised. It is the only error.
    pub fn add(self, rowid: i64, text: &[u8], sum: &mut Sum) -> Result<u64, Unrecognised> {
        let mut tokens = Tokens::new(self, rowid);
        tokens.add(text, sum)?;
        Ok(tokens.count())
    }
}

/// The tokens of a text that comes in pieces.
#[derive(Debug)]
pub struct Tokens {
    trigrams: Trigrams,
    row: Row,
    term: u64,
    characters: u64,
}

impl Tokens {
    /// Of the text of the row `rowid`.
    #[must_use]
    pub fn new(trigrams: Trigrams, rowid: i64) -> Self {
        Self { trigrams, row: Row::new(rowid), term: 0, characters: 0 }
    }

    /// How many there are so far.
    #[must_use]
    pub const fn count(&self) -> u64 {
        self.characters.saturating_sub(2)
    }

    /// Adds the tokens that end in the next piece to `sum`. No character may stand in two pieces; see [`whole_characters`].
    /// Errs for a character that Unicode has not.
    pub fn add(&mut self, text: &[u8], sum: &mut Sum) -> Result<(), Unrecognised> {
        let fold = &FOLD;
        let Self { trigrams, row, term, characters } = self;
        let mut at = 0;
        while let Some(byte) = text.get(at) {
            at += 1;
            let mut character = u32::from(*byte);
            if *byte >= 0xc0 {
                character = long_character(text, &mut at, *byte)?;
            }
            if trigrams.folds {
                character = match fold.get(character as usize) {
                    Some(folded) => u32::from(*folded),
                    // Deseret, the one script beyond the first plane that FTS5 folds.
                    None if (0x10400..0x10428).contains(&character) => character + 40,
                    None => character,
                };
            }
            // FTS5 passes over it.
            if character == 0 {
                continue;
            }
            *term = (*term << 21 | u64::from(character)) & TERM_MASK;
            *characters += 1;
            if *characters >= 3 {
                sum.add(*row, *term);
                row.forward(1);
            }
        }
        Ok(())
    }
}

/// How many of the first bytes of a text end where a character begins, as FTS5 reads them: all bytes that go on with a character
/// belong to it, however many there are. 0 when all of them do.
#[must_use]
pub fn whole_characters(text: &[u8]) -> usize {
    text.iter().rposition(|byte| *byte & 0xc0 != 0x80).unwrap_or(0)
}

/// Reads a character of several bytes, the first of which is taken (`FTS5_READ_UTF8`). Errs when it is beyond Unicode.
fn long_character(text: &[u8], at: &mut usize, first: u8) -> Result<u32, Unrecognised> {
    // The bits below the leading ones and the zero that ends them.
    let mut character = u32::from(match first {
        0xc0..=0xdf => first & 0x1f,
        0xe0..=0xef => first & 0x0f,
        0xf0..=0xf7 => first & 0x07,
        0xf8..=0xfb => first & 0x03,
        0xfd => 1,
        _ => 0,
    });
    while let Some(byte) = text.get(*at).filter(|byte| **byte & 0xc0 == 0x80) {
        if character > CHARACTER_MAX {
            return Err(Unrecognised("a character beyond Unicode"));
        }
        character = character << 6 | u32::from(byte & 0x3f);
        *at += 1;
    }
    match character {
        0..0x80 | 0xd800..0xe000 | 0xfffe..=0xffff => Ok(0xfffd),
        0..=CHARACTER_MAX => Ok(character),
        _ => Err(Unrecognised("a character beyond Unicode")),
    }
}

/// The three characters of a term as it stands in the index, in the form that [`Sum`] takes. Errs when it is not three
/// characters.
pub(super) fn term_of(stored: &[u8]) -> Result<u64, Unrecognised> {
    // Other first bytes are those of prefix indexes.
    let text = stored.strip_prefix(b"0").ok_or(Unrecognised("a term of another index"))?;
    let text = core::str::from_utf8(text).map_err(|_| Unrecognised("a term that is no text"))?;
    let mut characters = text.chars();
    let mut term = 0;
    for _ in 0..3 {
        let character =
            characters.next().ok_or(Unrecognised("a term of less than three characters"))?;
        term = term << 21 | u64::from(u32::from(character));
    }
    if characters.next().is_some() {
        return Err(Unrecognised("a term of more than three characters"));
    }
    Ok(term)
}

const TERM_MASK: u64 = (1 << 63) - 1;

const CHARACTER_MAX: u32 = 0x10_ffff;

/// What each character of the first plane folds to.
static FOLD: [u16; 0x1_0000] = {
    let mut table = [0; 0x1_0000];
    let mut character = u16::MAX;
    while character > 0 {
        table[character as usize] = character;
        character -= 1;
    }
    table = folding(table, &[(0x41, 26, 1, 32)]);
    folding(table, &FOLDED)
};

const fn folding(mut table: [u16; 0x1_0000], rules: &[(u16, u16, u8, i16)]) -> [u16; 0x1_0000] {
    let mut rule = 0;
    while rule < rules.len() {
        let (first, count, step, offset) = rules[rule];
        let mut character = first;
        while character < first + count {
            table[character as usize] = character.wrapping_add_signed(offset);
            character += step as u16;
        }
        rule += 1;
    }
    table
}

/// The rules of `sqlite3Fts5UnicodeFold`, which stem from the file `CaseFolding.txt` of Unicode: first character, how many
/// from there, each or every second, and what is added.
#[rustfmt::skip]
const FOLDED: [(u16, u16, u8, i16); 162] = [
    (0xb5, 1, 1, 775), (0xc0, 23, 1, 32), (0xd8, 7, 1, 32), (0x100, 48, 2, 1), (0x132, 6, 2, 1),
    (0x139, 16, 2, 1), (0x14a, 46, 2, 1), (0x178, 1, 1, -121), (0x179, 6, 2, 1), (0x17f, 1, 1, -268),
    (0x181, 1, 1, 210), (0x182, 4, 2, 1), (0x186, 1, 1, 206), (0x187, 1, 1, 1), (0x189, 2, 1, 205),
    (0x18b, 1, 1, 1), (0x18e, 1, 1, 79), (0x18f, 1, 1, 202), (0x190, 1, 1, 203), (0x191, 1, 1, 1),
    (0x193, 1, 1, 205), (0x194, 1, 1, 207), (0x196, 1, 1, 211), (0x197, 1, 1, 209), (0x198, 1, 1, 1),
    (0x19c, 1, 1, 211), (0x19d, 1, 1, 213), (0x19f, 1, 1, 214), (0x1a0, 6, 2, 1), (0x1a6, 1, 1, 218),
    (0x1a7, 1, 1, 1), (0x1a9, 1, 1, 218), (0x1ac, 1, 1, 1), (0x1ae, 1, 1, 218), (0x1af, 1, 1, 1),
    (0x1b1, 2, 1, 217), (0x1b3, 4, 2, 1), (0x1b7, 1, 1, 219), (0x1b8, 1, 1, 1), (0x1bc, 1, 1, 1),
    (0x1c4, 1, 1, 2), (0x1c5, 1, 1, 1), (0x1c7, 1, 1, 2), (0x1c8, 1, 1, 1), (0x1ca, 1, 1, 2),
    (0x1cb, 18, 2, 1), (0x1de, 18, 2, 1), (0x1f1, 1, 1, 2), (0x1f2, 4, 2, 1), (0x1f6, 1, 1, -97),
    (0x1f7, 1, 1, -56), (0x1f8, 40, 2, 1), (0x220, 1, 1, -130), (0x222, 18, 2, 1), (0x23a, 1, 1, 10795),
    (0x23b, 1, 1, 1), (0x23d, 1, 1, -163), (0x23e, 1, 1, 10792), (0x241, 1, 1, 1), (0x243, 1, 1, -195),
    (0x244, 1, 1, 69), (0x245, 1, 1, 71), (0x246, 10, 2, 1), (0x345, 1, 1, 116), (0x370, 4, 2, 1),
    (0x376, 1, 1, 1), (0x386, 1, 1, 38), (0x388, 3, 1, 37), (0x38c, 1, 1, 64), (0x38e, 2, 1, 63),
    (0x391, 17, 1, 32), (0x3a3, 9, 1, 32), (0x3c2, 1, 1, 1), (0x3cf, 1, 1, 8), (0x3d0, 1, 1, -30),
    (0x3d1, 1, 1, -25), (0x3d5, 1, 1, -15), (0x3d6, 1, 1, -22), (0x3d8, 24, 2, 1), (0x3f0, 1, 1, -54),
    (0x3f1, 1, 1, -48), (0x3f4, 1, 1, -60), (0x3f5, 1, 1, -64), (0x3f7, 1, 1, 1), (0x3f9, 1, 1, -7),
    (0x3fa, 1, 1, 1), (0x3fd, 3, 1, -130), (0x400, 16, 1, 80), (0x410, 32, 1, 32), (0x460, 34, 2, 1),
    (0x48a, 54, 2, 1), (0x4c0, 1, 1, 15), (0x4c1, 14, 2, 1), (0x4d0, 88, 2, 1), (0x531, 38, 1, 48),
    (0x10a0, 38, 1, 7264), (0x10c7, 1, 1, 7264), (0x10cd, 1, 1, 7264), (0x1e00, 150, 2, 1),
    (0x1e9b, 1, 1, -58), (0x1e9e, 1, 1, -7615), (0x1ea0, 96, 2, 1), (0x1f08, 8, 1, -8), (0x1f18, 6, 1, -8),
    (0x1f28, 8, 1, -8), (0x1f38, 8, 1, -8), (0x1f48, 6, 1, -8), (0x1f59, 8, 2, -8), (0x1f68, 8, 1, -8),
    (0x1f88, 8, 1, -8), (0x1f98, 8, 1, -8), (0x1fa8, 8, 1, -8), (0x1fb8, 2, 1, -8), (0x1fba, 2, 1, -74),
    (0x1fbc, 1, 1, -9), (0x1fbe, 1, 1, -7173), (0x1fc8, 4, 1, -86), (0x1fcc, 1, 1, -9), (0x1fd8, 2, 1, -8),
    (0x1fda, 2, 1, -100), (0x1fe8, 2, 1, -8), (0x1fea, 2, 1, -112), (0x1fec, 1, 1, -7), (0x1ff8, 2, 1, -128),
    (0x1ffa, 2, 1, -126), (0x1ffc, 1, 1, -9), (0x2126, 1, 1, -7517), (0x212a, 1, 1, -8383),
    (0x212b, 1, 1, -8262), (0x2132, 1, 1, 28), (0x2160, 16, 1, 16), (0x2183, 1, 1, 1), (0x24b6, 26, 1, 26),
    (0x2c00, 47, 1, 48), (0x2c60, 1, 1, 1), (0x2c62, 1, 1, -10743), (0x2c63, 1, 1, -3814),
    (0x2c64, 1, 1, -10727), (0x2c67, 6, 2, 1), (0x2c6d, 1, 1, -10780), (0x2c6e, 1, 1, -10749),
    (0x2c6f, 1, 1, -10783), (0x2c70, 1, 1, -10782), (0x2c72, 1, 1, 1), (0x2c75, 1, 1, 1),
    (0x2c7e, 2, 1, -10815), (0x2c80, 100, 2, 1), (0x2ceb, 4, 2, 1), (0x2cf2, 1, 1, 1), (0xa640, 46, 2, 1),
    (0xa680, 24, 2, 1), (0xa722, 14, 2, 1), (0xa732, 62, 2, 1), (0xa779, 4, 2, 1), (0xa77d, 1, 1, 30204),
    (0xa77e, 10, 2, 1), (0xa78b, 1, 1, 1), (0xa78d, 1, 1, 23256), (0xa790, 4, 2, 1), (0xa7a0, 10, 2, 1),
    (0xa7aa, 1, 1, 23228), (0xff21, 26, 1, 32),
];
