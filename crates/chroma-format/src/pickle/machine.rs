//! The stack machine. Dictionaries are not built: a pair goes where its dictionary leads as soon as the next value shows
//! that it is whole.

mod facts;
mod value;

use alloc::{borrow::ToOwned, format, string::String, vec::Vec};

pub(super) use self::value::{CLASS, MODULE};
use self::{
    facts::Facts,
    value::{Memo, Name, OTHERS_MAX, Role, Value},
};
use super::{
    Family, Input, Limits, Map, Metadata, PickleError, ReadError, Source, hash,
    opcodes::{
        BINGET, BININT, BININT1, BININT2, BINPUT, BINUNICODE, BINUNICODE8, BUILD, EMPTY_DICT,
        EMPTY_TUPLE, EXT1, EXT2, EXT4, FRAME, GLOBAL, INST, LONG_BINGET, LONG_BINPUT, LONG1, MARK,
        MEMOIZE, NEWOBJ, NEWOBJ_EX, NONE, OBJ, PROTO, REDUCE, SETITEM, SETITEMS, SHORT_BINUNICODE,
        STACK_GLOBAL, STOP,
    },
    too_much,
};

/// Gets each string with its hash.
type Naming<'a> = &'a mut dyn FnMut(u64, &[u8]);

/// Gets each pair of an id's hash and a number, with the dictionary that it stands in.
type Visit<'a> = &'a mut dyn FnMut(Map, u64, u64);

/// Walks over one pickle. Errs when the reader does, and for a pickle that Chroma does not write.
pub(super) fn run<'a, R: Source>(
    input: &mut Input<R>,
    limits: Limits,
    visit: Visit<'a>,
    naming: Option<Naming<'a>>,
) -> Result<Metadata, ReadError<R::Error>> {
    Machine::new(limits, visit, naming).run(input)
}

/// The same; gives what was stated up to where it ended.
pub(super) fn salvage<R: Source>(
    input: &mut Input<R>,
    limits: Limits,
    visit: Visit<'_>,
) -> (Stated, Result<Metadata, ReadError<R::Error>>) {
    let mut machine = Machine::new(limits, visit, None);
    let result = machine.run(input);
    // The pairs of the outer dictionary wait on the stack for its end.
    let outer = machine.stack.iter().position(|value| *value == Value::Dict(Role::Root));
    let waiting = outer.map_or(&[][..], |at| &machine.stack[at + 1..]);
    for [key, value] in waiting.as_chunks::<2>().0 {
        if let Value::Text { name, .. } = key
            && matches!(value, Value::Int(_))
            && machine.facts.root(*name, value, input.at).is_err()
        {
            break;
        }
    }
    let Facts { dimensionality, total, max_seq_id, .. } = machine.facts;
    (Stated { dimensionality, total, max_seq_id }, result)
}

/// Numbers that were met.
pub(super) struct Stated {
    pub(super) dimensionality: Option<u64>,
    pub(super) total: Option<u64>,
    pub(super) max_seq_id: Option<u64>,
}

struct Machine<'a> {
    limits: Limits,
    stack: Vec<Value>,
    /// Length of the stack at each open mark.
    marks: Vec<usize>,
    memo: Memo,
    /// The last two short texts, to say what would be imported.
    texts: [String; 2],
    facts: Facts,
    visit: Visit<'a>,
    /// Gets each string with its hash, where somebody wants to name ids.
    naming: Option<Naming<'a>>,
}

impl<'a> Machine<'a> {
    fn new(limits: Limits, visit: Visit<'a>, naming: Option<Naming<'a>>) -> Self {
        Self {
            limits,
            stack: Vec::new(),
            marks: Vec::new(),
            memo: Memo::default(),
            texts: Default::default(),
            facts: Facts::default(),
            visit,
            naming,
        }
    }

    fn run<R: Source>(&mut self, input: &mut Input<R>) -> Result<Metadata, ReadError<R::Error>> {
        loop {
            let at = input.at;
            let [op] = input.array()?;
            if op == STOP {
                return self.finish(input, at);
            }
            self.step(op, at, input)?;
        }
    }

    fn step<R: Source>(
        &mut self,
        op: u8,
        at: u64,
        input: &mut Input<R>,
    ) -> Result<(), ReadError<R::Error>> {
        match op {
            PROTO => {
                let [version] = input.array()?;
                if version > 5 {
                    return Err(foreign(at, format!("protocol {version}")).into());
                }
            }
            FRAME => {
                let _length: [u8; 8] = input.array()?;
            }
            EMPTY_DICT => self.empty_dict(at)?,
            EMPTY_TUPLE => self.push(Value::Tuple, at)?,
            NONE => self.push(Value::None, at)?,
            MARK => {
                if self.marks.len() >= self.limits.depth_max {
                    return Err(too_much(at, "levels", self.limits.depth_max as u64).into());
                }
                self.marks.push(self.stack.len());
            }
            BININT => {
                let value = i32::from_le_bytes(input.array()?);
                self.push(Value::Int(value.into()), at)?;
            }
            BININT1 => {
                let [value] = input.array()?;
                self.push(Value::Int(value.into()), at)?;
            }
            BININT2 => {
                let value = u16::from_le_bytes(input.array()?);
                self.push(Value::Int(value.into()), at)?;
            }
            LONG1 => self.long(at, input)?,
            SHORT_BINUNICODE => {
                let [length] = input.array()?;
                self.text(length.into(), at, input)?;
            }
            BINUNICODE => {
                let length = u32::from_le_bytes(input.array()?);
                self.text(length.into(), at, input)?;
            }
            BINUNICODE8 => {
                let length = u64::from_le_bytes(input.array()?);
                self.text(length, at, input)?;
            }
            MEMOIZE => self.memoize(self.memo.len(), at)?,
            BINPUT => {
                let [place] = input.array()?;
                self.memoize(place.into(), at)?;
            }
            LONG_BINPUT => {
                let place = u32::from_le_bytes(input.array()?);
                self.memoize(place as usize, at)?;
            }
            BINGET => {
                let [place] = input.array()?;
                self.recall(place.into(), at)?;
            }
            LONG_BINGET => {
                let place = u32::from_le_bytes(input.array()?);
                self.recall(place as usize, at)?;
            }
            SETITEM => self.set_item(at)?,
            SETITEMS => self.set_items(at)?,
            _ => self.object(op, at, input)?,
        }
        Ok(())
    }

    /// What makes objects: allowed for Chroma's one class only. Errs for any other, and when the source does.
    fn object<R: Source>(
        &mut self,
        op: u8,
        at: u64,
        input: &mut Input<R>,
    ) -> Result<(), ReadError<R::Error>> {
        match op {
            GLOBAL => {
                let module = input.line(LINE_MAX)?;
                let name = input.line(LINE_MAX)?;
                if (&module[..], &name[..]) != (MODULE, CLASS) {
                    let (module, name) = (shown(&module), shown(&name));
                    return Err(hostile(at, format!("imports {module}.{name}")).into());
                }
                self.push(Value::Class, at)?;
            }
            STACK_GLOBAL => {
                let (name, module) = (self.pop(at)?, self.pop(at)?);
                let known = matches!(module, Value::Text { name: Name::Module, .. })
                    && matches!(name, Value::Text { name: Name::Class, .. });
                if !known {
                    let [module, name] = &self.texts;
                    return Err(hostile(at, format!("imports {module}.{name}")).into());
                }
                self.push(Value::Class, at)?;
            }
            NEWOBJ => {
                let (arguments, class) = (self.pop(at)?, self.pop(at)?);
                if (class, arguments) != (Value::Class, Value::Tuple) {
                    return Err(hostile(at, "makes an object of something else".to_owned()).into());
                }
                self.facts.object = true;
                self.push(Value::Object, at)?;
            }
            BUILD => {
                let state = self.pop(at)?;
                let object = self.stack.last().copied();
                if object != Some(Value::Object) || state != Value::Dict(Role::Root) {
                    return Err(hostile(at, "sets the state of something else".to_owned()).into());
                }
                self.facts.built = true;
            }
            REDUCE => return Err(hostile(at, "calls a function (REDUCE)".to_owned()).into()),
            INST | OBJ | NEWOBJ_EX => {
                return Err(hostile(at, "makes an object by a call".to_owned()).into());
            }
            EXT1 | EXT2 | EXT4 => {
                return Err(hostile(at, "imports from the extension registry".to_owned()).into());
            }
            other => return Err(foreign(at, format!("opcode 0x{other:02x}")).into()),
        }
        Ok(())
    }

    fn finish<R: Source>(
        &mut self,
        input: &mut Input<R>,
        at: u64,
    ) -> Result<Metadata, ReadError<R::Error>> {
        let result = self.pop(at)?;
        let facts = &self.facts;
        let family = match result {
            Value::Object if facts.built => Family::PersistentData,
            Value::Dict(Role::Root) if !facts.object => Family::Plain,
            _ => {
                return Err(
                    foreign(at, "another value than Chroma's as its result".to_owned()).into()
                );
            }
        };
        if !self.stack.is_empty() || !self.marks.is_empty() {
            return Err(foreign(at, "values that are left over".to_owned()).into());
        }
        if !input.ended()? {
            return Err(foreign(input.at, "bytes behind its end".to_owned()).into());
        }
        if facts.seen_maps != [true; 2] {
            return Err(PickleError::Incomplete("id_to_label or label_to_id is not in it").into());
        }
        let Some(total) = facts.total else {
            return Err(PickleError::Incomplete("total_elements_added is not in it").into());
        };
        if !facts.seen_dimensionality {
            return Err(PickleError::Incomplete("dimensionality is not in it").into());
        }
        Ok(Metadata {
            family,
            dimensionality: facts.dimensionality,
            total_elements_added: total,
            max_seq_id: facts.max_seq_id,
            newest_seq_id: facts.newest_seq_id,
            ids: facts.ids,
            label_max: facts.label_max,
            inverse: facts.ids == facts.labels && facts.sums[0] == facts.sums[1],
            bytes: input.at,
        })
    }

    fn empty_dict(&mut self, at: u64) -> Result<(), PickleError> {
        let role = match (self.marks.len(), self.stack.last()) {
            (0, None | Some(Value::Object)) => Role::Root,
            (1, Some(Value::Text { name: Name::IdToLabel, .. })) => Role::IdToLabel,
            (1, Some(Value::Text { name: Name::LabelToId, .. })) => Role::LabelToId,
            (1, Some(Value::Text { name: Name::IdToSeqId, .. })) => Role::IdToSeqId,
            _ => return Err(foreign(at, "a dictionary in another place".to_owned())),
        };
        self.push(Value::Dict(role), at)
    }

    /// An integer of up to eight bytes, least significant first. Errs when it is longer, and when the source does.
    fn long<R: Source>(
        &mut self,
        at: u64,
        input: &mut Input<R>,
    ) -> Result<(), ReadError<R::Error>> {
        let [length] = input.array()?;
        if length > 8 {
            return Err(too_much(at, "bytes in an integer", 8).into());
        }
        let mut bytes = [0; 8];
        let length = usize::from(length);
        bytes[..length].copy_from_slice(input.next(length)?);
        let negative = length > 0 && bytes[length - 1] & 0x80 != 0;
        if negative {
            bytes[length..].fill(0xff);
        }
        Ok(self.push(Value::Int(i64::from_le_bytes(bytes)), at)?)
    }

    fn text<R: Source>(
        &mut self,
        length: u64,
        at: u64,
        input: &mut Input<R>,
    ) -> Result<(), ReadError<R::Error>> {
        let bound = self.limits.string_bytes_max;
        let Some(length) = usize::try_from(length).ok().filter(|length| *length <= bound) else {
            return Err(too_much(at, "bytes in a string", bound as u64).into());
        };
        let text = input.next(length)?;
        let hash = hash(text);
        if let Some(naming) = &mut self.naming {
            naming(hash, text);
        }
        let mut name = Name::Other;
        if self.marks.len() <= 1 {
            name = Name::of(text);
            self.texts.rotate_left(1);
            self.texts[1] = shown(text);
        }
        Ok(self.push(Value::Text { hash, name }, at)?)
    }

    /// Puts a value on the stack; the pair before it in the same dictionary is whole now.
    /// Errs when that pair is none of Chroma's, or the stack is full.
    fn push(&mut self, value: Value, at: u64) -> Result<(), PickleError> {
        self.deliver(at)?;
        if self.stack.len() >= self.limits.stack_max {
            return Err(too_much(at, "values on the stack", self.limits.stack_max as u64));
        }
        self.stack.push(value);
        Ok(())
    }

    fn pop(&mut self, at: u64) -> Result<Value, PickleError> {
        let floor = self.marks.last().copied().unwrap_or(0);
        match self.stack.pop() {
            Some(value) if self.stack.len() >= floor => Ok(value),
            _ => Err(foreign(at, "an operation without its values".to_owned())),
        }
    }

    /// Hands on the pair on top of the stack when it is whole and one of the long dictionaries waits for it. The few
    /// pairs of the outer one stay until its end: the dictionary on top may still get its items one by one.
    /// Errs when the pair is none of Chroma's.
    fn deliver(&mut self, at: u64) -> Result<(), PickleError> {
        let Some(mark) = self.marks.last().copied().filter(|mark| self.stack.len() == mark + 2)
        else {
            return Ok(());
        };
        // Not copied from where they stand: that would wait until they stand there.
        match self.stack.as_slice() {
            [.., Value::Dict(Role::Root), _, _] => Ok(()),
            [.., Value::Dict(role), key, value] => {
                self.facts.pair(*role, key, value, self.visit, at)?;
                self.stack.truncate(mark);
                Ok(())
            }
            _ => Err(foreign(at, "a mark in another place".to_owned())),
        }
    }

    fn set_item(&mut self, at: u64) -> Result<(), PickleError> {
        let (value, key) = (self.pop(at)?, self.pop(at)?);
        match self.stack.last().copied() {
            Some(Value::Dict(role)) => self.facts.pair(role, &key, &value, self.visit, at),
            _ => Err(foreign(at, "an item without a dictionary".to_owned())),
        }
    }

    fn set_items(&mut self, at: u64) -> Result<(), PickleError> {
        self.deliver(at)?;
        let Some(mark) = self.marks.pop().filter(|mark| *mark <= self.stack.len()) else {
            return Err(foreign(at, "items without a mark".to_owned()));
        };
        let items = self.stack.split_off(mark);
        let Some(Value::Dict(role)) = self.stack.last().copied() else {
            return Err(foreign(at, "items without a dictionary".to_owned()));
        };
        let (pairs, rest) = items.as_chunks::<2>();
        if !rest.is_empty() {
            return Err(foreign(at, "a key without a value".to_owned()));
        }
        pairs.iter().try_for_each(|[key, value]| self.facts.pair(role, key, value, self.visit, at))
    }

    fn memoize(&mut self, place: usize, at: u64) -> Result<(), PickleError> {
        let Some(value) = self.stack.last().copied() else {
            return Err(foreign(at, "nothing to remember".to_owned()));
        };
        if self.memo.len() >= self.limits.memo_max {
            return Err(too_much(at, "values to remember", self.limits.memo_max as u64));
        }
        // Python numbers them in order.
        if place > self.memo.len() {
            return Err(foreign(at, format!("memo place {place} out of order")));
        }
        if self.memo.set(place, value) {
            Ok(())
        } else {
            Err(too_much(at, "values that are no ids to remember", OTHERS_MAX as u64))
        }
    }

    fn recall(&mut self, place: usize, at: u64) -> Result<(), PickleError> {
        match self.memo.get(place) {
            Some(Value::Dict(_)) => Err(foreign(at, "a dictionary in two places".to_owned())),
            Some(value) => self.push(value, at),
            None => Err(foreign(at, format!("memo place {place} before it was filled"))),
        }
    }
}

/// A name from the file, cut and cleaned for people.
fn shown(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(&text[..text.len().min(64)]);
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn foreign(at: u64, what: String) -> PickleError {
    PickleError::Foreign { at, what }
}

fn hostile(at: u64, does: String) -> PickleError {
    PickleError::Hostile { at, does }
}

const LINE_MAX: usize = 1024;
