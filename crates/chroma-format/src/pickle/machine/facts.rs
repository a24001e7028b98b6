//! What a pickle of Chroma states: pair by pair, and nothing else is believed.

use alloc::{borrow::ToOwned, format};

use super::{
    super::{Map, PickleError},
    foreign,
    value::{Name, Role, Value, kind},
};

/// What the pickle states, as far as it was read.
#[derive(Debug, Default)]
pub(super) struct Facts {
    pub(super) object: bool,
    pub(super) built: bool,
    pub(super) dimensionality: Option<u64>,
    pub(super) seen_dimensionality: bool,
    pub(super) total: Option<u64>,
    pub(super) max_seq_id: Option<u64>,
    pub(super) newest_seq_id: Option<u64>,
    pub(super) seen_maps: [bool; 2],
    pub(super) ids: u64,
    pub(super) labels: u64,
    pub(super) label_max: u64,
    /// Sums over the pairs of both maps: equal when the maps are each other's inverse, whatever their order.
    pub(super) sums: [u64; 2],
}

impl Facts {
    /// Takes in a pair of one of the dictionaries, and hands it on to `visit`. Errs when Chroma writes no such pair there.
    pub(super) fn pair(
        &mut self,
        role: Role,
        key: &Value,
        value: &Value,
        visit: &mut dyn FnMut(Map, u64, u64),
        at: u64,
    ) -> Result<(), PickleError> {
        match (role, key, value) {
            (Role::Root, Value::Text { name, .. }, value) => self.root(*name, value, at),
            (Role::IdToLabel, Value::Text { hash, .. }, Value::Int(label)) => {
                let label = number(*label, at)?;
                self.ids += 1;
                self.label_max = self.label_max.max(label);
                self.sums[0] = self.sums[0].wrapping_add(mix(*hash, label));
                visit(Map::IdToLabel, *hash, label);
                Ok(())
            }
            (Role::LabelToId, Value::Int(label), Value::Text { hash, .. }) => {
                let label = number(*label, at)?;
                self.labels += 1;
                self.sums[1] = self.sums[1].wrapping_add(mix(*hash, label));
                visit(Map::LabelToId, *hash, label);
                Ok(())
            }
            (Role::IdToSeqId, Value::Text { hash, .. }, Value::Int(row)) => {
                // One that is no number of a row says nothing.
                if let Ok(row) = u64::try_from(*row) {
                    self.newest_seq_id = self.newest_seq_id.max(Some(row));
                    visit(Map::IdToSeqId, *hash, row);
                }
                Ok(())
            }
            (role, key, value) => {
                let (key, value) = (kind(key), kind(value));
                Err(foreign(at, format!("a pair of {key} and {value} in {role:?}")))
            }
        }
    }

    /// Takes in a field of the outer dictionary. Errs when Chroma writes no such field.
    pub(super) fn root(&mut self, name: Name, value: &Value, at: u64) -> Result<(), PickleError> {
        let number = || match value {
            Value::None => Ok(None),
            Value::Int(value) => number(*value, at).map(Some),
            other => Err(foreign(at, format!("{} for a number", kind(other)))),
        };
        match (name, value) {
            (Name::Dimensionality, _) => {
                self.dimensionality = number()?;
                self.seen_dimensionality = true;
            }
            (Name::TotalElementsAdded, _) => self.total = number()?,
            (Name::MaxSeqId, _) => self.max_seq_id = number()?,
            (Name::IdToLabel, Value::Dict(Role::IdToLabel)) => self.seen_maps[0] = true,
            (Name::LabelToId, Value::Dict(Role::LabelToId)) => self.seen_maps[1] = true,
            // 0.5.5 counts updates and invalid operations too, and what read its files until 0.6.3 kept that. Another release
            // may add a field; one whose name is damaged is missed at the end.
            (Name::IdToSeqId, Value::Dict(Role::IdToSeqId))
            | (Name::Other, Value::None | Value::Int(_) | Value::Text { .. }) => {}
            _ => return Err(foreign(at, "a field that Chroma does not write".to_owned())),
        }
        Ok(())
    }
}

fn number(value: i64, at: u64) -> Result<u64, PickleError> {
    u64::try_from(value).map_err(|_| foreign(at, format!("the number {value}")))
}

/// Spreads a pair over 64 bits (the finalizer of `SplitMix64`).
fn mix(hash: u64, label: u64) -> u64 {
    let mut x = hash.wrapping_add(label.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}
