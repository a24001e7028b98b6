//! Lists of neighbours while a graph is built.

use alloc::{collections::TryReserveError, vec::Vec};

/// An element and its distance, ordered by that; of equal ones the greater index comes first, as in hnswlib.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Near(u64);

impl Near {
    /// One that is as far as can be when an overflow has left no number.
    pub(super) const fn new(distance: f32, index: u32) -> Self {
        let distance = if distance.is_nan() { f32::INFINITY } else { distance };
        let bits = distance.to_bits();
        let ordered = if bits & SIGN == 0 { bits | SIGN } else { !bits };
        Self((ordered as u64) << 32 | !index as u64)
    }

    pub(super) const fn distance(self) -> f32 {
        let ordered = (self.0 >> 32) as u32;
        f32::from_bits(if ordered & SIGN == 0 { !ordered } else { ordered & !SIGN })
    }

    #[expect(clippy::cast_possible_truncation, reason = "the lower half")]
    pub(super) const fn index(self) -> u32 {
        !(self.0 as u32)
    }
}

/// What is known of a list.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Head {
    /// Neighbours in it.
    count: u16,
    /// So many of them, from the first on, are spread out: none is nearer to another of these than to the element itself. What was
    /// compared once is not compared again.
    spread: u16,
}

/// Lists that have room for the same number of neighbours.
#[derive(Debug)]
pub(super) struct Lists {
    room: usize,
    heads: Vec<Head>,
    near: Vec<Near>,
}

impl Lists {
    /// No list, and memory for so many. Errs when that is not there.
    pub(super) fn new(room: usize, lists: usize) -> Result<Self, TryReserveError> {
        let (mut heads, mut near) = (Vec::new(), Vec::new());
        heads.try_reserve_exact(lists)?;
        // More than can be counted is more than there is.
        near.try_reserve_exact(lists.saturating_mul(room))?;
        Ok(Self { room, heads, near })
    }

    /// The memory that lists will fill.
    pub(super) fn spare(&mut self) -> &mut [core::mem::MaybeUninit<Near>] {
        self.near.spare_capacity_mut()
    }

    pub(super) const fn room(&self) -> usize {
        self.room
    }

    pub(super) const fn len(&self) -> usize {
        self.heads.len()
    }

    /// Adds empty lists. Errs when there is no memory for them.
    pub(super) fn grow(&mut self, lists: usize) -> Result<(), TryReserveError> {
        self.heads.try_reserve(lists)?;
        self.near.try_reserve(lists * self.room)?;
        let lists = self.heads.len() + lists;
        self.heads.resize(lists, Head::default());
        self.near.resize(lists * self.room, Near::new(0.0, 0));
        Ok(())
    }

    pub(super) fn of(&self, list: usize) -> &[Near] {
        &self.near[list * self.room..][..usize::from(self.heads[list].count)]
    }

    /// How many of a list are spread out.
    pub(super) fn spread(&self, list: usize) -> usize {
        usize::from(self.heads[list].spread)
    }

    /// Replaces a list by one that fits; `spread` of the new one are spread out.
    pub(super) fn set(&mut self, list: usize, near: &[Near], spread: usize) {
        self.near[list * self.room..][..near.len()].copy_from_slice(near);
        // Rooms are no larger than 20,000.
        let short = |count: usize| u16::try_from(count).unwrap_or(u16::MAX);
        self.heads[list] = Head { count: short(near.len()), spread: short(spread) };
    }

    /// A list as hnswlib holds it: the number of neighbours, and these. Behind them stands what was there when the list was longer.
    pub(super) fn record(&self, list: usize) -> impl Iterator<Item = u32> {
        let room = &self.near[list * self.room..][..self.room];
        let count = u32::from(self.heads[list].count);
        core::iter::once(count).chain(room.iter().map(|near| near.index()))
    }
}

const SIGN: u32 = 1 << 31;
