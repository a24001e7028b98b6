//! What puts a store right, and what makes that possible: backups that are proven before they count, looking into anything that
//! people call a backup, and putting one in place. Each is a pure plan first, and then its execution on a copy. The store itself is
//! touched by the exchange at the end of a restore or of a repair, and by nothing else.

mod attributes;
pub mod backup;
pub mod diff;
pub mod dump;
mod hands;
pub mod holders;
pub mod lines;
pub mod load;
pub mod moment;
pub mod permissions;
pub mod proof;
pub mod quarantine;
mod records;
pub mod recover;
pub mod restore;
pub mod retention;
mod room;
pub mod stats;
pub mod steps;
pub mod swap;
pub mod unpack;
pub mod verify;
