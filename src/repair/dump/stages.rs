//! Reading records, making lines of them, and writing those have threads of their own, the second of them two, and pieces go
//! from one to the next in their order. Few pieces are on their way, so memory does not grow with the store.

use std::{
    io::{self, Write},
    mem,
    sync::{
        Arc,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
};

use super::{
    DumpError, Dumped,
    line::{Embedding, Line},
    record::Record,
};
use crate::repair::room::Room;

/// What becomes a line.
pub(super) enum Unwritten {
    /// One that is a line already, with its end.
    Text(Vec<u8>),
    Record(Box<Whole>),
}

/// A record and its vector.
pub(super) struct Whole {
    pub(super) id: String,
    pub(super) record: Record,
    pub(super) vector: Option<Vec<f32>>,
}

impl Unwritten {
    /// About what it takes in memory.
    fn bytes(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Record(whole) => {
                let text = whole.record.document.as_ref().map_or(0, String::len);
                whole.id.len() + text + whole.vector.as_ref().map_or(0, |vector| vector.len() * 4)
            }
        }
    }
}

/// What was read, and about the room that it takes until it is written.
struct Piece {
    all: Vec<Unwritten>,
    bytes: usize,
}

/// Lines of such a piece.
struct Lines {
    text: io::Result<Vec<u8>>,
    bytes: usize,
}

/// Takes what was read to the next stage.
pub(super) struct Onward {
    /// One after the other, so that their order is known.
    to: [SyncSender<Piece>; MAKERS],
    next: usize,
    piece: Vec<Unwritten>,
    bytes: usize,
    room: Arc<Room>,
}

impl Onward {
    /// Errs when nobody takes it any more.
    pub(super) fn push(&mut self, one: Unwritten) -> Result<(), DumpError> {
        self.bytes += one.bytes();
        self.piece.push(one);
        if self.bytes < PIECE_BYTES && self.piece.len() < PIECE_LINES {
            return Ok(());
        }
        self.flush()
    }

    fn flush(&mut self) -> Result<(), DumpError> {
        let piece = Piece { all: mem::take(&mut self.piece), bytes: mem::take(&mut self.bytes) };
        if !self.room.take(piece.bytes) {
            return Err(DumpError::Stopped);
        }
        let large = piece.bytes > ROOM_BYTES;
        self.to[self.next].send(piece).map_err(|_| DumpError::Stopped)?;
        self.next = (self.next + 1) % MAKERS;
        if large {
            self.room.wait_empty();
        }
        Ok(())
    }
}

/// Lets `read` give records, and writes them to `out`. `embeddings`: whether lines speak of vectors.
/// Errs when `read` does, `out` cannot be written, or the system gives no thread.
pub(super) fn run(
    out: &mut dyn Write,
    embeddings: bool,
    read: impl FnOnce(&mut Onward) -> Result<Dumped, DumpError> + Send,
) -> Result<Dumped, DumpError> {
    thread::scope(|scope| {
        let ((to_one, one), (to_other, other)) = (sync_channel(PIECES), sync_channel(PIECES));
        let (to, pieces) = ([to_one, to_other], [one, other]);
        let ((one_made, one), (other_made, other)) = (sync_channel(PIECES), sync_channel(PIECES));
        let (lines, written) = ([one_made, other_made], [one, other]);
        let room = Arc::new(Room::of(ROOM_BYTES));
        let theirs = Arc::clone(&room);
        let named = |name: &str| thread::Builder::new().name(name.to_owned());
        let reading = named("records").spawn_scoped(scope, move || {
            let mut onward = Onward { to, next: 0, piece: Vec::new(), bytes: 0, room: theirs };
            let dumped = read(&mut onward)?;
            onward.flush()?;
            Ok(dumped)
        });
        let reading = reading.map_err(DumpError::Write)?;
        for (pieces, lines) in pieces.into_iter().zip(lines) {
            named("lines")
                .spawn_scoped(scope, move || make(&pieces, embeddings, &lines))
                .map_err(DumpError::Write)?;
        }
        let result = write(out, written, &room);
        room.close();
        let read = reading.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        // Who could not write knows why the others had to stop.
        result.map_err(DumpError::Write)?;
        read
    })
}

/// Makes lines until there is nothing more to make them of, or nobody wants them.
fn make(pieces: &Receiver<Piece>, embeddings: bool, lines: &SyncSender<Lines>) {
    for Piece { all, bytes } in pieces {
        let mut out = Vec::with_capacity(LINES_BYTES.max(bytes + bytes / 16));
        let made = all.into_iter().try_for_each(|one| match one {
            Unwritten::Text(text) => {
                out.extend_from_slice(&text);
                Ok(())
            }
            Unwritten::Record(whole) => {
                let embedding = match &whole.vector {
                    Some(vector) => Embedding::Is(vector),
                    None if embeddings => Embedding::Lost,
                    None => Embedding::Unwanted,
                };
                Line { id: &whole.id, record: &whole.record, embedding }.write(&mut out)
            }
        });
        if lines.send(Lines { text: made.map(|()| out), bytes }).is_err() {
            return;
        }
    }
}

/// Writes all lines, in the order in which they were read. What it does not take any more is dropped with it, so that the others stop.
/// Errs when it cannot be written, or a line could not be made.
#[expect(clippy::needless_pass_by_value, reason = "what it drops stops the others")]
fn write(out: &mut dyn Write, lines: [Receiver<Lines>; MAKERS], room: &Room) -> io::Result<()> {
    // Where the next piece would come from and none does, there is no more.
    for Lines { text, bytes } in lines.iter().cycle().map_while(|from| from.recv().ok()) {
        out.write_all(&text?)?;
        room.give_back(bytes);
    }
    out.flush()
}

/// Of records: lines are up to three times as long.
const PIECE_BYTES: usize = 256 << 10;
const PIECE_LINES: usize = 500;
const LINES_BYTES: usize = 1 << 20;
/// Pieces that wait for the next stage.
const PIECES: usize = 2;
/// Threads that make lines: numbers of vectors take longer to print than to read.
const MAKERS: usize = 2;
/// Of all that is between reading and writing. Documents may be as large as a server takes in one request.
const ROOM_BYTES: usize = 4 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    struct Full(usize);

    impl Write for Full {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 = self.0.checked_sub(bytes.len()).ok_or(io::ErrorKind::StorageFull)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn whole(number: usize) -> Unwritten {
        let id = format!("r{number:05}");
        Unwritten::Record(Box::new(Whole { id, record: Record::default(), vector: None }))
    }

    #[test]
    fn lines_keep_their_order_and_the_last_piece_is_there() {
        let mut out = Vec::new();
        let dumped = run(&mut out, false, |onward| {
            onward.push(Unwritten::Text(b"{}\n".to_vec()))?;
            (0..1_234).try_for_each(|number| onward.push(whole(number)))?;
            Ok(Dumped { records: 1_234, ..Dumped::default() })
        });
        assert_eq!(dumped.unwrap().records, 1_234);
        let line =
            |number| format!("{{\"id\":\"r{number:05}\",\"document\":null,\"metadata\":null}}\n");
        let want = (0..1_234).map(line).collect::<Vec<_>>().concat();
        assert_eq!(String::from_utf8(out).unwrap(), format!("{{}}\n{want}"));
    }

    #[test]
    fn what_cannot_be_written_ends_the_reading_and_is_told() {
        let mut reads = 0;
        let result = run(&mut Full(100_000), true, |onward| {
            loop {
                onward.push(whole(reads))?;
                reads += 1;
            }
        });
        let Err(DumpError::Write(error)) = result else { panic!("{result:?}") };
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        assert!(reads < 20 * PIECE_LINES, "{reads}");
    }

    #[test]
    fn an_error_of_the_reader_is_told() {
        let result = run(&mut Vec::new(), true, |onward| {
            onward.push(whole(1))?;
            Err(DumpError::Stopped)
        });
        assert!(matches!(result, Err(DumpError::Stopped)), "{result:?}");
    }
}
