use proptest::prelude::*;

use super::*;

fn who(uid: u32, gids: &[u32]) -> Identity {
    Identity { uid, gids: gids.to_vec(), overrides: false }
}

fn inode(mode: u16, uid: u32, gid: u32) -> Inode {
    Inode { mode, uid, gid, immutable: false, append_only: false, readonly: false }
}

/// The bytes of an attribute from `(tag, permissions, id)`.
fn list_bytes(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut bytes = 2_u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        bytes.extend(tag.to_le_bytes());
        bytes.extend(permissions.to_le_bytes());
        bytes.extend(id.to_le_bytes());
    }
    bytes
}

fn list(entries: &[(u16, u16, u32)]) -> AccessList {
    AccessList::parse(&list_bytes(entries)).unwrap()
}

const FILE: u16 = TYPE_REGULAR;
const NO_ID: u32 = u32::MAX;

#[test]
fn modes_decide_by_the_first_class_that_matches() {
    let server = who(1000, &[1000, 33]);
    for (mode, uid, gid, want, answer) in [
        (0o644, 1000, 0, READ | WRITE, Ok(())),
        (0o644, 0, 1000, WRITE, Err(Refusal::Mode)),
        (0o664, 0, 33, WRITE, Ok(())),
        (0o646, 0, 33, WRITE, Err(Refusal::Mode)), // the group says no, others would have said yes
        (0o066, 1000, 33, READ, Err(Refusal::Mode)), // so does the owner
        (0o606, 0, 0, WRITE, Ok(())),
        (0o444, 1000, 1000, READ, Ok(())),
        (0o000, 0, 0, 0, Ok(())),
    ] {
        let found = may(&server, &inode(FILE | mode, uid, gid), None, want);
        assert_eq!(found, answer, "{mode:o} {uid}:{gid} {want}");
    }
}

#[test]
fn the_capability_overrides_modes_but_not_what_the_filesystem_forbids() {
    let root = Identity { uid: 0, gids: vec![0], overrides: true };
    let bare_root = who(0, &[0]);
    let file = inode(FILE | 0o400, 1000, 1000);
    assert_eq!(may(&root, &file, None, READ | WRITE), Ok(()));
    assert_eq!(may(&bare_root, &file, None, WRITE), Err(Refusal::Mode));
    assert_eq!(may(&root, &file, None, SEARCH), Err(Refusal::Mode), "nobody may execute it");
    assert_eq!(may(&root, &inode(TYPE_DIRECTORY, 1000, 1000), None, WRITE | SEARCH), Ok(()));
    for (inode, refusal) in [
        (Inode { readonly: true, ..file }, Refusal::ReadOnly),
        (Inode { immutable: true, ..file }, Refusal::Immutable),
        (Inode { append_only: true, ..file }, Refusal::AppendOnly),
    ] {
        assert_eq!(may(&root, &inode, None, WRITE), Err(refusal));
        assert_eq!(may(&root, &inode, None, READ), Ok(()));
    }
}

#[test]
fn access_lists_decide_for_named_users_and_groups() {
    let named = list(&[
        (1, 6, NO_ID),
        (2, 6, 1000),
        (2, 4, 1001),
        (4, 4, NO_ID),
        (8, 6, 50),
        (0x10, 6, NO_ID),
        (0x20, 0, NO_ID),
    ]);
    let masked =
        list(&[(1, 6, NO_ID), (2, 7, 1000), (4, 4, NO_ID), (0x10, 4, NO_ID), (0x20, 6, NO_ID)]);
    for (identity, list, mode, want, answer) in [
        (who(1000, &[1]), &named, 0o660, WRITE, Ok(())),
        (who(1001, &[50]), &named, 0o660, WRITE, Err(Refusal::List)), // the user comes first
        (who(1002, &[7]), &named, 0o660, READ, Ok(())),
        (who(1002, &[7]), &named, 0o660, WRITE, Err(Refusal::List)),
        (who(1002, &[7, 50]), &named, 0o660, WRITE, Ok(())), // any group that grants it
        (who(1002, &[1]), &named, 0o660, READ, Err(Refusal::List)),
        (who(5, &[1]), &named, 0o660, WRITE, Ok(())), // the owner's bits, not the list
        (who(1000, &[1]), &masked, 0o646, WRITE, Err(Refusal::List)), // the mask takes it away
        (who(1002, &[1]), &masked, 0o646, WRITE, Ok(())),
        (who(1000, &[1]), &masked, 0o606, WRITE, Ok(())), // group bits clear: the kernel skips the list
    ] {
        let inode = inode(FILE | mode, 5, 7);
        assert_eq!(may(&identity, &inode, Some(list), want), answer, "{identity:?} {mode:o}");
    }
}

#[test]
fn the_digest_shows_what_a_mode_does_not() {
    let base = [(1, 6, NO_ID), (2, 6, 1000), (4, 4, NO_ID), (0x10, 6, NO_ID), (0x20, 4, NO_ID)];
    let with = |at: usize, entry| {
        let mut changed = base;
        changed[at] = entry;
        list(&changed).digest()
    };
    let digest = list(&base).digest();
    assert!(digest.is_some());
    assert_eq!(with(0, (1, 0, NO_ID)), digest, "chmod u=");
    assert_eq!(with(3, (0x10, 0, NO_ID)), digest, "chmod g=");
    assert_eq!(with(4, (0x20, 0, NO_ID)), digest, "chmod o=");
    assert_ne!(with(1, (2, 4, 1000)), digest, "setfacl u:1000:r");
    assert_ne!(with(1, (2, 6, 1001)), digest, "setfacl u:1001:rw");
    assert_ne!(with(2, (4, 6, NO_ID)), digest, "setfacl g::rw");
    let mut other_order = base;
    other_order.reverse();
    assert_eq!(list(&other_order).digest(), digest);
    assert_eq!(list(&[(1, 6, NO_ID), (4, 4, NO_ID), (0x20, 4, NO_ID)]).digest(), None);
    assert_ne!(list(&base).digest_whole(), list(&other_order[1..]).digest_whole());
}

#[test]
fn bytes_that_are_no_list_are_refused() {
    let whole = list_bytes(&[(1, 6, NO_ID), (2, 6, 1000)]);
    for len in 0..whole.len() {
        let parsed = AccessList::parse(&whole[..len]);
        match len {
            4 | 12 => assert!(parsed.is_ok(), "{len}"),
            _ => assert_eq!(parsed, Err(AccessListError::Truncated { found: len })),
        }
    }
    let refused = |bytes: &[u8]| AccessList::parse(bytes).unwrap_err();
    assert_eq!(refused(&[1, 0, 0, 0]), AccessListError::Version { found: 1 });
    assert_eq!(
        refused(&list_bytes(&[(3, 6, 0)])),
        AccessListError::Entry { tag: 3, permissions: 6 }
    );
    assert_eq!(
        refused(&list_bytes(&[(1, 8, 0)])),
        AccessListError::Entry { tag: 1, permissions: 8 }
    );
    assert_eq!(
        refused(&list_bytes(&vec![(2, 7, 9); LIST_ENTRIES_MAX + 1])),
        AccessListError::TooLong { found: LIST_ENTRIES_MAX + 1 }
    );
}

#[test]
fn modes_read_like_ls() {
    for (mode, text) in [
        (FILE | 0o644, "-rw-r--r--"),
        (TYPE_DIRECTORY | 0o2755, "drwxr-sr-x"),
        (TYPE_DIRECTORY | 0o1777, "drwxrwxrwt"),
        (FILE | 0o6600, "-rwS--S---"),
        (TYPE_SYMLINK | 0o777, "lrwxrwxrwx"),
        (0, "?---------"),
    ] {
        assert_eq!(mode_text(mode), text);
    }
}

/// POSIX 1003.1e draft 17, section 23.1.5, step by step as it stands there, with Linux' one deviation at its head.
fn slow_reference(
    identity: &Identity,
    inode: &Inode,
    entries: &[(u16, u16, u32)],
    want: Want,
) -> bool {
    let has = |granted: u16| (0..3).all(|bit| want & (1 << bit) == 0 || granted & (1 << bit) != 0);
    let member = |gid: u32| identity.gids.contains(&gid);
    let by_list = if identity.uid == inode.uid {
        has(inode.mode >> 6)
    } else if entries.is_empty() || (inode.mode >> 3).trailing_zeros() >= 3 {
        if member(inode.gid) { has(inode.mode >> 3) } else { has(inode.mode) }
    } else {
        let mask = entries.iter().find(|e| e.0 == 0x10).map_or(7, |e| e.1);
        let user = entries.iter().find(|e| e.0 == 2 && e.2 == identity.uid);
        let groups: Vec<u16> = entries
            .iter()
            .filter(|e| (e.0 == 4 && member(inode.gid)) || (e.0 == 8 && member(e.2)))
            .map(|e| e.1)
            .collect();
        match user {
            Some(user) => has(user.1 & mask),
            None if !groups.is_empty() => groups.iter().any(|g| has(g & mask)),
            None => entries.iter().find(|e| e.0 == 0x20).is_some_and(|other| has(other.1)),
        }
    };
    let directory = inode.mode & TYPE_MASK == TYPE_DIRECTORY;
    let capable = identity.overrides && (directory || want & 1 == 0 || inode.mode & 0o111 != 0);
    let frozen = inode.readonly || inode.immutable || inode.append_only;
    (by_list || capable) && !(want & WRITE != 0 && frozen)
}

fn any_entry() -> impl Strategy<Value = (u16, u16, u32)> {
    let tag = prop::sample::select(vec![2_u16, 2, 4, 8, 8, 0x10, 0x20, 1]);
    (tag, 0..8_u16, 0..5_u32)
}

fn any_inode() -> impl Strategy<Value = Inode> {
    let kind = prop::sample::select(vec![TYPE_REGULAR, TYPE_DIRECTORY]);
    (kind, 0..0o10_000_u16, 0..5_u32, 0..5_u32, prop::array::uniform3(prop::bool::weighted(0.1)))
        .prop_map(|(kind, mode, uid, gid, [immutable, append_only, readonly])| Inode {
            mode: kind | mode,
            uid,
            gid,
            immutable,
            append_only,
            readonly,
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn no_bytes_make_the_parser_panic(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
        if let Ok(list) = AccessList::parse(&bytes) {
            let _ = (list.digest(), list.digest_whole());
        }
        let mut versioned = vec![2, 0, 0, 0];
        versioned.extend(&bytes);
        if let Ok(list) = AccessList::parse(&versioned) {
            let answer = may(&who(1, &[2]), &inode(FILE | 0o777, 0, 0), Some(&list), WRITE);
            prop_assert!(matches!(answer, Ok(()) | Err(Refusal::List)));
        }
    }

    #[test]
    fn every_decision_is_that_of_the_slow_reference(
        inode in any_inode(),
        entries in prop::collection::vec(any_entry(), 0..8),
        uid in 0..5_u32,
        gids in prop::collection::vec(0..5_u32, 0..4),
        overrides in any::<bool>(),
        want in 0..8_u8,
    ) {
        let identity = Identity { uid, gids, overrides };
        let list = (!entries.is_empty()).then(|| list(&entries));
        let answer = may(&identity, &inode, list.as_ref(), want);
        prop_assert_eq!(answer.is_ok(), slow_reference(&identity, &inode, &entries, want));
        if !list_counts(&identity, &inode) {
            prop_assert_eq!(answer, may(&identity, &inode, None, want));
        }
        prop_assert_eq!(mode_text(inode.mode).len(), 10);
    }
}
