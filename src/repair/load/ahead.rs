//! The lines are read and parsed by a thread of their own, so that the next batch is there when the server has taken the one before. What
//! is read ahead is bounded in bytes.

use std::{
    hash::Hasher,
    io, mem,
    sync::{
        Arc,
        mpsc::{self, Receiver, Sender},
    },
    thread::{self, JoinHandle},
    vec,
};

use twox_hash::XxHash3_64;

use crate::repair::{
    lines::{Lines, Numbered},
    room::Room,
};

/// A line, and the hash of all lines up to it; 0 when nobody wants to know it.
#[derive(Debug)]
pub(super) struct Hashed {
    pub(super) line: Numbered,
    pub(super) hash: u64,
}

/// What was read, with the bytes that it was in the file.
struct Piece {
    lines: Vec<Hashed>,
    bytes: usize,
}

/// Gives the lines in their order.
pub(super) struct Ahead {
    pieces: Receiver<io::Result<Piece>>,
    piece: vec::IntoIter<Hashed>,
    room: Arc<Room>,
    reading: Option<JoinHandle<()>>,
}

impl Ahead {
    /// Begins to read. `hashed`: whether somebody wants to know the hashes. Errs when there can be no other thread.
    pub(super) fn of(lines: Lines, hashed: bool) -> io::Result<Self> {
        let (send, pieces) = mpsc::channel();
        let room = Arc::new(Room::of(AHEAD_BYTES));
        let theirs = Arc::clone(&room);
        let reading = thread::Builder::new()
            .name("lines".to_owned())
            .spawn(move || read(lines, hashed, &send, &theirs))?;
        Ok(Self { pieces, piece: Vec::new().into_iter(), room, reading: Some(reading) })
    }

    /// The next line; `None` at the end. Errs when no more can be read.
    pub(super) fn next(&mut self) -> io::Result<Option<Hashed>> {
        loop {
            if let Some(line) = self.piece.next() {
                return Ok(Some(line));
            }
            let Ok(piece) = self.pieces.recv() else {
                if let Some(Err(panic)) = self.reading.take().map(JoinHandle::join) {
                    std::panic::resume_unwind(panic);
                }
                return Ok(None);
            };
            let Piece { lines, bytes } = piece?;
            self.room.give_back(bytes);
            self.piece = lines.into_iter();
        }
    }
}

/// The thread is not waited for: it may wait for a pipe that nobody writes to.
impl Drop for Ahead {
    fn drop(&mut self) {
        self.room.close();
    }
}

fn read(mut lines: Lines, hashed: bool, send: &Sender<io::Result<Piece>>, room: &Room) {
    let mut hash = XxHash3_64::default();
    let mut piece = Piece { lines: Vec::new(), bytes: 0 };
    loop {
        match lines.next() {
            Ok(Some(line)) => {
                if hashed {
                    hash.write(lines.raw());
                }
                piece.bytes += lines.raw().len();
                piece.lines.push(Hashed { line, hash: if hashed { hash.finish() } else { 0 } });
            }
            ended => {
                // Whoever takes them knows of a closed channel.
                drop(send.send(Ok(piece)));
                if let Err(error) = ended {
                    drop(send.send(Err(error)));
                }
                return;
            }
        }
        if piece.bytes >= PIECE_BYTES || piece.lines.len() >= PIECE_LINES {
            let full = mem::replace(&mut piece, Piece { lines: Vec::new(), bytes: 0 });
            lines.give_back();
            if !room.take(full.bytes) || send.send(Ok(full)).is_err() {
                return;
            }
        }
    }
}

const PIECE_BYTES: usize = 256 << 10;
const PIECE_LINES: usize = 1_000;
/// As text. Behind it one batch is made and two are in the air.
const AHEAD_BYTES: usize = 6 << 20;

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;

    use super::*;
    use crate::repair::lines::Line;

    /// Numbers its lines, and counts how many were asked of it.
    struct Endless {
        number: u64,
        made: Arc<Mutex<u64>>,
    }

    impl io::Read for Endless {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.number += 1;
            *self.made.lock() = self.number;
            let line =
                format!("{{\"id\":\"r{}\",\"document\":\"{}\"}}\n", self.number, "x".repeat(8_000));
            buffer[..line.len()].copy_from_slice(line.as_bytes());
            Ok(line.len())
        }
    }

    #[test]
    fn lines_come_in_their_order_and_no_more_are_read_than_there_is_room() {
        let made = Arc::new(Mutex::new(0));
        let lines = Lines::new(Endless { number: 0, made: Arc::clone(&made) }).unwrap();
        let mut ahead = Ahead::of(lines, false).unwrap();
        for number in 1..=10_000 {
            let Hashed { line, .. } = ahead.next().unwrap().unwrap();
            let Ok(Line::Record(record)) = line.line else { panic!("{line:?}") };
            assert_eq!((line.number, record.id), (number, format!("r{number}")));
        }
        let room = u64::try_from((AHEAD_BYTES + 4 * PIECE_BYTES) / 8_000).unwrap();
        let made = *made.lock();
        assert!(made <= 10_000 + room, "{made}");
    }

    #[test]
    fn the_hash_of_a_line_is_that_of_all_up_to_it() {
        let text =
            |end: &str| format!("{{\"id\":\"a\"}}\n\n{{\"id\":\"b\"}}\n{{\"id\":\"{end}\"}}");
        let hashes = |text: String| -> Vec<u64> {
            let mut ahead = Ahead::of(Lines::new(io::Cursor::new(text)).unwrap(), true).unwrap();
            std::iter::from_fn(|| ahead.next().unwrap()).map(|line| line.hash).collect()
        };
        let (one, two) = (hashes(text("c")), hashes(text("d")));
        assert_eq!((one.len(), &one[..2]), (3, &two[..2]));
        assert!(one[0] != one[1] && one[2] != two[2]);
    }

    #[test]
    fn what_stood_before_an_error_is_given_first() {
        struct Ends(bool);
        impl io::Read for Ends {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                if std::mem::replace(&mut self.0, true) {
                    return Err(io::ErrorKind::TimedOut.into());
                }
                let line = b"{\"id\":\"a\"}\n";
                buffer[..line.len()].copy_from_slice(line);
                Ok(line.len())
            }
        }
        let mut ahead = Ahead::of(Lines::new(Ends(false)).unwrap(), false).unwrap();
        assert!(ahead.next().unwrap().is_some());
        assert_eq!(ahead.next().unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!(ahead.next().unwrap().is_none());
    }
}
