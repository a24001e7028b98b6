//! The names of the collectors. Their rooms are in [`collectors`](crate::collectors), which makes its table of the same list.

/// Every collector in the order in which `check` prints them: `Type room "what it reads"`. The room is the module below
/// `collectors`, flag, label and key; the type in it is what implements the collector.
macro_rules! collectors {
    ($table:ident) => {
        $table! {
            Disk disk "filesystem and bytes of the store";
            Integrity integrity "SQLite file, journal and schema";
            Contents contents "what the tables hold";
            Hnsw hnsw "indexes of the collections";
            Processes processes "who holds the directory";
            Descriptors descriptors "file descriptors of who holds the directory";
            Permissions permissions "owners, groups and modes";
            Backups backups "age and size of backups";
            Server server "whether the server answers";
            Logs logs "what the server logs";
        }
    };
}
pub(crate) use collectors;

macro_rules! names {
    ($($name:ident $room:ident $about:literal;)+) => {
        /// The name of a collector: flag, label and key of the configuration.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum CollectorName {
            $(#[doc = concat!("Reads ", $about, ".")] $name,)+
        }

        impl CollectorName {
            /// All of them, in the order of the registry.
            pub const ALL: [Self; [$($about),+].len()] = [$(Self::$name),+];

            /// What it reads, for help texts.
            #[must_use]
            pub const fn about(self) -> &'static str {
                match self {
                    $(Self::$name => $about,)+
                }
            }

            /// The word of flag and label.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($room),)+
                }
            }
        }
    };
}
collectors!(names);
