//! Users and groups of a host from the bytes of its `/etc/passwd` and `/etc/group` (passwd(5), group(5)). Lines that are
//! not of that form (comments, NIS entries) are passed over. Accounts of a directory service are not in these files.

use std::collections::BTreeSet;

/// The two files of one host.
#[derive(Debug, Clone, Copy)]
pub struct Accounts<'a> {
    /// Content of `/etc/passwd`.
    pub passwd: &'a [u8],
    /// Content of `/etc/group`.
    pub group: &'a [u8],
}

/// One line of `/etc/passwd`, as far as it matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct User<'a> {
    /// Login name.
    pub name: &'a str,
    /// User id.
    pub uid: u32,
    /// Id of the primary group.
    pub gid: u32,
}

impl<'a> Accounts<'a> {
    /// The user called `name`: the first such line, as `getpwnam` has it.
    #[must_use]
    pub fn user(&self, name: &str) -> Option<User<'a>> {
        self.users().find(|user| user.name == name)
    }

    /// The user with this id.
    #[must_use]
    pub fn user_by_id(&self, uid: u32) -> Option<User<'a>> {
        self.users().find(|user| user.uid == uid)
    }

    /// The id of the group called `name`.
    #[must_use]
    pub fn group_id(&self, name: &str) -> Option<u32> {
        self.groups().find(|(group, _, _)| *group == name).map(|(_, gid, _)| gid)
    }

    /// All groups of `user`, the primary one first.
    #[must_use]
    pub fn groups_of(&self, user: User<'_>) -> Vec<u32> {
        let mut gids = vec![user.gid];
        let mut seen = BTreeSet::from([user.gid]);
        for (_, gid, members) in self.groups() {
            if members.split(',').any(|member| member == user.name) && seen.insert(gid) {
                gids.push(gid);
            }
        }
        gids
    }

    fn users(&self) -> impl Iterator<Item = User<'a>> + use<'a> {
        lines(self.passwd).filter_map(|line| {
            let mut fields = line.split(':');
            let (name, _password) = (fields.next()?, fields.next()?);
            let (uid, gid) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
            (!name.is_empty()).then_some(User { name, uid, gid })
        })
    }

    fn groups(&self) -> impl Iterator<Item = (&'a str, u32, &'a str)> + use<'a> {
        lines(self.group).filter_map(|line| {
            let mut fields = line.split(':');
            let (name, _password) = (fields.next()?, fields.next()?);
            let gid = fields.next()?.parse().ok()?;
            (!name.is_empty()).then_some((name, gid, fields.next().unwrap_or_default()))
        })
    }
}

fn lines(bytes: &[u8]) -> impl Iterator<Item = &str> {
    bytes.split(|byte| *byte == b'\n').filter_map(|line| str::from_utf8(line).ok())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOST: Accounts<'_> = Accounts {
        passwd: b"root:x:0:0:root:/root:/bin/bash\n\
            # a comment\n\
            +nisuser::::::\n\
            \xff\xfe:x:5:5::/:/bin/sh\n\
            big:x:4294967296:1::/:/bin/sh\n\
            :x:7:7::/:/bin/sh\n\
            chroma:x:999:998:Chroma,,,:/srv:/usr/sbin/nologin\n\
            chroma:x:1000:1000::/:/bin/sh\n\
            short:x:12:13",
        group: b"root:x:0:\nchroma:x:998:\nbackup:x:34:chroma,root\nssl:x:110:postgres,chroma\nodd:x:111\nagain:x:998:chroma\n",
    };

    #[test]
    fn users_and_groups_are_found_by_name_and_the_first_line_wins() {
        assert_eq!(HOST.user("chroma"), Some(User { name: "chroma", uid: 999, gid: 998 }));
        assert_eq!(HOST.user("short"), Some(User { name: "short", uid: 12, gid: 13 }));
        assert_eq!(HOST.user_by_id(0).unwrap().name, "root");
        for absent in ["", "Chroma", "+nisuser", "# a comment", "big"] {
            assert_eq!(HOST.user(absent), None, "{absent}");
        }
        assert_eq!(HOST.group_id("backup"), Some(34));
        assert_eq!(HOST.group_id("odd"), Some(111));
        assert_eq!(HOST.group_id("wheel"), None);
    }

    #[test]
    fn groups_of_a_user_start_with_the_primary_one_and_hold_none_twice() {
        assert_eq!(HOST.groups_of(HOST.user("chroma").unwrap()), [998, 34, 110]);
        assert_eq!(HOST.groups_of(HOST.user("root").unwrap()), [0, 34]);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(passwd: Vec<u8>, group in "[a-z:,0-9\n]{0,200}", name in "[a-z]{0,3}") {
            let accounts = Accounts { passwd: &passwd, group: group.as_bytes() };
            let _ = (accounts.user(&name), accounts.user_by_id(0), accounts.group_id(&name));
            prop_assert_eq!(accounts.groups_of(User { name: &name, uid: 1, gid: 7 })[0], 7);
        }
    }
}
