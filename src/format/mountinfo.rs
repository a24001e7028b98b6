//! The table of mounts of a process, `/proc/PID/mountinfo` (`man 5 proc_pid_mountinfo`): what is mounted where, from which
//! device, and whether it may be written. Paths stand there with spaces and the like as octal escapes.

use std::borrow::Cow;

/// One line of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mount {
    /// Number that is unique on the host as long as the mount lasts.
    pub(crate) id: u64,
    /// Where it is mounted, as the process sees it; not always UTF-8.
    pub(crate) point: Vec<u8>,
    /// Type of the filesystem: `ext4`, `tmpfs`, `nfs4`.
    pub(crate) fstype: String,
    /// What is mounted: a device, a share, or a word like `tmpfs`.
    pub(crate) source: String,
    /// This mount may not be written through; another one of the same filesystem may be.
    pub(crate) readonly_here: bool,
    /// The filesystem itself may not be written: so mounted, or stopped by the kernel after an error.
    pub(crate) readonly_everywhere: bool,
}

/// The mount with this number; lines that are not understood are passed over.
pub(crate) fn find(table: &[u8], id: u64) -> Option<Mount> {
    table.split(|byte| *byte == b'\n').filter_map(parse_line).find(|mount| mount.id == id)
}

/// `36 35 98:0 /root /point rw,noatime shared:1 - ext4 /dev/sda1 rw,errors=remount-ro`; the fields between the options
/// and the lone dash are any number.
fn parse_line(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|byte| *byte == b' ');
    let id = str::from_utf8(fields.next()?).ok()?.parse().ok()?;
    let (_parent, _device, _root) = (fields.next()?, fields.next()?, fields.next()?);
    let (point, options) = (fields.next()?, fields.next()?);
    fields.find(|field| *field == b"-")?;
    let (fstype, source) = (fields.next()?, fields.next()?);
    let super_options = fields.next()?;
    let has = |options: &[u8], word: &[u8]| options.split(|byte| *byte == b',').any(|o| o == word);
    Some(Mount {
        id,
        point: unescape(point).into_owned(),
        fstype: text(fstype),
        source: text(source),
        readonly_here: has(options, b"ro"),
        // Since Linux 6.14 ext4 leaves the flag alone and says this word instead.
        readonly_everywhere: has(super_options, b"ro") || has(super_options, b"emergency_ro"),
    })
}

/// The number of the mount that a descriptor leads to, from `/proc/self/fdinfo/N`.
pub(crate) fn mount_id(fdinfo: &[u8]) -> Option<u64> {
    let line = fdinfo.split(|byte| *byte == b'\n').find_map(|l| l.strip_prefix(b"mnt_id:"))?;
    str::from_utf8(line).ok()?.trim().parse().ok()
}

fn text(field: &[u8]) -> String {
    String::from_utf8_lossy(&unescape(field)).into_owned()
}

/// Turns `\040` and its kind back into bytes; anything else stays as it is.
fn unescape(field: &[u8]) -> Cow<'_, [u8]> {
    if !field.contains(&b'\\') {
        return Cow::Borrowed(field);
    }
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((byte, after)) = rest.split_first() {
        if let Some(value) = after.first_chunk().filter(|_| *byte == b'\\').copied().and_then(octal)
        {
            out.push(value);
            rest = &after[3..];
        } else {
            out.push(*byte);
            rest = after;
        }
    }
    Cow::Owned(out)
}

fn octal(digits: [u8; 3]) -> Option<u8> {
    let value = digits.iter().try_fold(0_u16, |value, digit| {
        matches!(digit, b'0'..=b'7').then(|| value * 8 + u16::from(digit - b'0'))
    })?;
    u8::try_from(value).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TABLE: &[u8] = b"\
22 28 0:20 / /proc rw,nosuid shared:12 - proc proc rw
28 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw,errors=remount-ro
97 28 8:17 /sub /mnt/my\\040disk\\011x ro,relatime - ext4 /dev/sdb1 rw
98 28 8:33 / /srv rw,relatime shared:3 master:4 propagate_from:2 - ext4 /dev/sdc1 rw,emergency_ro
99 28 0:50 / /back\\134slash rw - nfs4 server:/export\\040x ro,vers=4.2,addr=10.0.0.1
this line is not understood
100 28 0:51 / /none rw - tmpfs  rw
";

    #[test]
    fn mounts_are_found_by_their_number() {
        let all: Vec<_> =
            [28, 97, 98, 99, 100].iter().map(|id| find(TABLE, *id).unwrap()).collect();
        let said: Vec<_> = all
            .iter()
            .map(|m| {
                let point = String::from_utf8_lossy(&m.point);
                (point, &*m.fstype, &*m.source, m.readonly_here, m.readonly_everywhere)
            })
            .collect();
        assert_eq!(
            said,
            [
                ("/".into(), "ext4", "/dev/sda1", false, false),
                ("/mnt/my disk\tx".into(), "ext4", "/dev/sdb1", true, false),
                ("/srv".into(), "ext4", "/dev/sdc1", false, true),
                ("/back\\slash".into(), "nfs4", "server:/export x", false, true),
                ("/none".into(), "tmpfs", "", false, false),
            ]
        );
        assert_eq!(find(TABLE, 1), None);
    }

    #[test]
    fn the_number_of_a_descriptors_mount_is_read() {
        let said = b"pos:\t0\nflags:\t02100000\nmnt_id:\t28\nino:\t2\n";
        assert_eq!(mount_id(said), Some(28));
        assert_eq!(mount_id(b"pos:\t0\nmnt_id:\tx\n"), None);
        assert_eq!(mount_id(b""), None);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(table: Vec<u8>, line in r"[0-9]{1,3} 1 0:1 / /[\\0-7a ]{0,20} [ro,w]{0,5} - a b ro") {
            find(&table, 1);
            mount_id(&table);
            parse_line(line.as_bytes());
        }
    }
}
