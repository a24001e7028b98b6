//! Keeps the page below its bound of series. Families are left out whole, per store: half a family would give wrong
//! sums. The largest go first, because what grows without limit is one family with too many label values; a store whose
//! neighbour explodes keeps what it has. The same input always loses the same families.

/// The samples of one family of one store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Group {
    /// Name of the family.
    pub(super) family: &'static str,
    /// Place of the store in the configuration.
    pub(super) store: usize,
    /// How many series it is.
    pub(super) series: usize,
}

/// The groups that must be left out so that the rest is at most `room` series. Among equals the store that stands last
/// in the configuration loses first.
pub(super) fn left_out(mut groups: Vec<Group>, room: usize) -> Vec<Group> {
    let mut total: usize = groups.iter().map(|group| group.series).sum();
    groups.sort_unstable_by_key(|group| (group.series, group.store, group.family));
    let mut out = Vec::new();
    while total > room {
        let Some(largest) = groups.pop() else { break };
        total -= largest.series;
        out.push(largest);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_family_goes_first_and_a_quiet_store_keeps_everything() {
        let group = |family, store, series| Group { family, store, series };
        let all = [
            group("chroma_disk_size_bytes", 0, 1),
            group("chroma_records", 0, 900),
            group("chroma_disk_size_bytes", 1, 1),
            group("chroma_records", 1, 40),
            group("chroma_segments", 1, 40),
        ];
        let names = |room| -> Vec<(&str, usize)> {
            left_out(all.to_vec(), room).iter().map(|g| (g.family, g.store)).collect()
        };
        for (room, want) in [
            (usize::MAX, vec![]),
            (982, vec![]),
            (981, vec![("chroma_records", 0)]),
            (82, vec![("chroma_records", 0)]),
            (81, vec![("chroma_records", 0), ("chroma_segments", 1)]),
            (41, vec![("chroma_records", 0), ("chroma_segments", 1), ("chroma_records", 1)]),
        ] {
            assert_eq!(names(room), want, "{room}");
        }
        assert_eq!(names(0).len(), all.len());
        assert_eq!(names(1).last(), Some(&("chroma_disk_size_bytes", 1)), "the first store stays");
    }

    #[test]
    fn the_order_of_the_groups_does_not_matter() {
        let groups: Vec<Group> =
            (0..50).map(|store| Group { family: "chroma_x", store, series: store % 7 }).collect();
        let mut reversed = groups.clone();
        reversed.reverse();
        for room in 0..150 {
            assert_eq!(left_out(groups.clone(), room), left_out(reversed.clone(), room), "{room}");
        }
    }
}
