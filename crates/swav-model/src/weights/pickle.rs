//! Python's pickles, read as data.
//!
//! A pickle is a program for a small stack machine, and two of its instructions call whatever it names. Here nothing is
//! called: tensors are noted by where their numbers lie, dictionaries of any class are dictionaries, and all other objects
//! that training programs keep beside the weights become [`Object::Other`]. A name that would do harm in Python ends the
//! reading. The instructions are those that
//! `pickletools` of CPython documents, of protocols 2 to 5.
//!
//! Objects live in one list and refer to each other by number: sharing and cycles cost nothing, nothing recurses, and the
//! length of the list bounds the memory.

use std::collections::HashMap;
use std::io::Read;

/// The most bytes of a pickle: a ResNet-200 with its optimizer takes less than one million.
pub(super) const LONGEST: u64 = 16 << 20;
/// The most objects of a pickle.
const MOST: usize = 1 << 20;
/// The most axes of a tensor.
const MOST_AXES: usize = 8;

/// Number of an object.
pub(super) type Id = usize;

/// What a pickle holds.
#[derive(Debug)]
pub(super) enum Object {
    Int(i64),
    Text(String),
    Tuple(Vec<Id>),
    List(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    /// A class or function, by its full name.
    Named(String),
    Storage(Storage),
    Tensor(Box<TensorPlace>),
    /// Whatever is no part of any weights.
    Other,
}

/// Memory that tensors lie in.
#[derive(Clone, Copy, Debug)]
pub(super) struct Storage {
    /// The text that it goes by in the file.
    pub(super) key: Id,
    pub(super) element: Element,
    /// In elements.
    pub(super) length: u64,
}

/// What a storage holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Element {
    F64,
    F32,
    F16,
    BF16,
    /// Anything that weights are not made of, so many bytes each.
    Other(u64),
}

impl Element {
    pub(super) fn bytes(self) -> u64 {
        match self {
            Self::F64 => 8,
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
            Self::Other(bytes) => bytes,
        }
    }

    /// By the name of the class of the storage, `torch.FloatStorage`.
    fn of(class: &str) -> Option<Self> {
        let kind = class
            .strip_prefix("torch.storage.")
            .or(class.strip_prefix("torch."))?;
        Some(match kind.strip_suffix("Storage")? {
            "Double" => Self::F64,
            "Float" => Self::F32,
            "Half" => Self::F16,
            "BFloat16" => Self::BF16,
            "Bool" | "Byte" | "Char" | "Untyped" => Self::Other(1),
            "Short" => Self::Other(2),
            "Int" => Self::Other(4),
            "Long" | "ComplexFloat" => Self::Other(8),
            "ComplexDouble" => Self::Other(16),
            _ => return None,
        })
    }
}

/// A tensor by where its numbers lie; offset and strides are in elements.
#[derive(Clone, Debug)]
pub(super) struct TensorPlace {
    pub(super) storage: Storage,
    pub(super) offset: u64,
    pub(super) shape: Vec<u64>,
    pub(super) strides: Vec<u64>,
}

/// Modules whose functions do things. No checkpoint has a reason to name them, and though nothing is called here, a file that would
/// call them in Python is not to be passed on.
const HARMFUL: &[&str] = &[
    "asyncio",
    "code",
    "commands",
    "ctypes",
    "importlib",
    "multiprocessing",
    "nt",
    "os",
    "pickle",
    "pip",
    "posix",
    "pty",
    "requests",
    "runpy",
    "shutil",
    "socket",
    "subprocess",
    "sys",
    "urllib",
    "webbrowser",
];

/// The same of functions that Python always knows.
const HARMFUL_BUILTINS: &[&str] = &[
    "__import__",
    "breakpoint",
    "compile",
    "delattr",
    "eval",
    "exec",
    "execfile",
    "getattr",
    "globals",
    "input",
    "open",
    "setattr",
];

fn is_harmful(module: &str, name: &str) -> bool {
    let outermost = module.split('.').next().unwrap_or_default();
    match outermost {
        "builtins" | "__builtin__" => HARMFUL_BUILTINS.contains(&name),
        outermost => HARMFUL.contains(&outermost),
    }
}

/// Everything that a pickle holds.
#[derive(Debug)]
pub(super) struct Pickle {
    objects: Vec<Object>,
    root: Id,
}

impl Pickle {
    /// Reads one pickle, to its end and no further.
    ///
    /// # Errors
    /// If it is cut off, is none of `torch.save`'s, takes more than it may, or names what it must not.
    pub(super) fn read(input: &mut impl Read) -> Result<Self, String> {
        let mut machine = Machine {
            input: input.take(LONGEST),
            at: 0,
            objects: Vec::new(),
            stack: Vec::new(),
            marks: Vec::new(),
            memo: HashMap::new(),
            nested: 0,
        };
        let root = loop {
            if let Some(root) = machine.step()? {
                break root;
            }
        };
        Ok(Self {
            objects: machine.objects,
            root,
        })
    }

    pub(super) fn root(&self) -> &Object {
        &self.objects[self.root]
    }

    pub(super) fn get(&self, id: Id) -> &Object {
        &self.objects[id]
    }

    pub(super) fn objects(&self) -> &[Object] {
        &self.objects
    }

    /// The text of an object that is one.
    pub(super) fn text(&self, id: Id) -> Option<&str> {
        match self.get(id) {
            Object::Text(text) => Some(text),
            _ => None,
        }
    }

    /// What a dictionary holds under a name; of several the last, as in Python.
    pub(super) fn entry(&self, dict: &Object, name: &str) -> Option<&Object> {
        let Object::Dict(entries) = dict else {
            return None;
        };
        let mut found = entries.iter().rev();
        let found = found.find(|(key, _)| self.text(*key) == Some(name));
        found.map(|(_, value)| self.get(*value))
    }
}

/// The stack machine.
struct Machine<R> {
    input: std::io::Take<R>,
    at: u64,
    objects: Vec<Object>,
    stack: Vec<Id>,
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
    /// Calls within calls.
    nested: usize,
}

impl<R: Read> Machine<R> {
    /// One instruction; the result of the whole pickle if it was the last.
    fn step(&mut self) -> Result<Option<Id>, String> {
        let at = self.at;
        match self.byte()? {
            b'.' => return self.pop().map(Some),
            0x80 => {
                let protocol = self.byte()?;
                if !(2..=5).contains(&protocol) {
                    return Err(format!(
                        "a pickle of protocol {protocol}; torch.save writes 2"
                    ));
                }
            }
            0x95 => drop(self.array::<8>()?),
            b'(' => {
                let height = self.stack.len();
                self.room(self.marks.len())?;
                self.marks.push(height);
            }
            b'0' if self.marks.last() == Some(&self.stack.len()) => drop(self.marks.pop()),
            b'0' => drop(self.pop()?),
            b'1' => drop(self.pop_mark()?),
            b'2' => {
                let top = self.top()?;
                self.push_id(top)?;
            }
            b'N' => self.push(Object::Other)?,
            0x88 => self.push(Object::Int(1))?,
            0x89 => self.push(Object::Int(0))?,
            b'J' => {
                let value = i32::from_le_bytes(self.array()?);
                self.push(Object::Int(value.into()))?;
            }
            b'K' => {
                let value = self.byte()?;
                self.push(Object::Int(value.into()))?;
            }
            b'M' => {
                let value = u16::from_le_bytes(self.array()?);
                self.push(Object::Int(value.into()))?;
            }
            0x8a => {
                let length = self.byte()?.into();
                self.long(length)?;
            }
            0x8b => {
                let length = self.length4()?;
                self.long(length)?;
            }
            b'G' => {
                self.array::<8>()?;
                self.push(Object::Other)?;
            }
            b'X' | b'T' => {
                let length = self.length4()?;
                self.push_text(length)?;
            }
            0x8c | b'U' => {
                let length = self.byte()?.into();
                self.push_text(length)?;
            }
            0x8d => {
                let length = self.length8()?;
                self.push_text(length)?;
            }
            b'B' => {
                let length = self.length4()?;
                self.skip(length)?;
            }
            b'C' => {
                let length = self.byte()?.into();
                self.skip(length)?;
            }
            0x8e | 0x96 => {
                let length = self.length8()?;
                self.skip(length)?;
            }
            b'}' => self.push(Object::Dict(Vec::new()))?,
            b']' => self.push(Object::List(Vec::new()))?,
            b')' => self.push(Object::Tuple(Vec::new()))?,
            0x8f => self.push(Object::Other)?,
            b't' => {
                let items = self.pop_mark()?;
                self.push(Object::Tuple(items))?;
            }
            b'l' => {
                let items = self.pop_mark()?;
                self.push(Object::List(items))?;
            }
            b'd' => {
                let items = self.pop_mark()?;
                self.push(Object::Dict(pairs(&items)))?;
            }
            0x91 => {
                self.pop_mark()?;
                self.push(Object::Other)?;
            }
            count @ 0x85..=0x87 => {
                let mut items = Vec::new();
                for _ in 0x85..=count {
                    items.insert(0, self.pop()?);
                }
                self.push(Object::Tuple(items))?;
            }
            b'a' => {
                let item = self.pop()?;
                self.append(vec![item])?;
            }
            b'e' | 0x90 => {
                let items = self.pop_mark()?;
                self.append(items)?;
            }
            b's' => {
                let value = self.pop()?;
                let key = self.pop()?;
                self.set(&[key, value])?;
            }
            b'u' => {
                let items = self.pop_mark()?;
                self.set(&items)?;
            }
            b'q' => {
                let number = self.byte()?.into();
                self.put(number)?;
            }
            b'r' => {
                let number = u32::from_le_bytes(self.array()?);
                self.put(number)?;
            }
            // There are fewer than 2³² bytes, so fewer entries.
            0x94 => self.put(self.memo.len() as u32)?,
            b'h' => {
                let number = self.byte()?.into();
                self.fetch(number)?;
            }
            b'j' => {
                let number = u32::from_le_bytes(self.array()?);
                self.fetch(number)?;
            }
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.name(&module, &name)?;
            }
            0x93 => {
                let (name, module) = (self.pop_text()?, self.pop_text()?);
                self.name(&module, &name)?;
            }
            b'R' | 0x81 => {
                let arguments = self.pop()?;
                self.make(arguments)?;
            }
            0x92 => {
                self.pop()?;
                let arguments = self.pop()?;
                self.make(arguments)?;
            }
            // State of an object: of what is read here none has any that matters.
            b'b' => {
                self.pop()?;
                self.top()?;
            }
            b'Q' => {
                let id = self.pop()?;
                let storage = self.storage(id)?;
                self.push(Object::Storage(storage))?;
            }
            other => {
                return Err(format!(
                    "instruction 0x{other:02x} at byte {at} of its pickle is none that torch.save writes"
                ));
            }
        }
        Ok(None)
    }

    fn byte(&mut self) -> Result<u8, String> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let mut bytes = [0; N];
        let read = self.input.read_exact(&mut bytes);
        read.map_err(|_| self.cut_off())?;
        self.at += N as u64;
        Ok(bytes)
    }

    /// Memory is taken as the bytes arrive, whatever length the file claims.
    fn bytes(&mut self, length: u64) -> Result<Vec<u8>, String> {
        let mut bytes = Vec::new();
        let read = self.input.by_ref().take(length).read_to_end(&mut bytes);
        match read {
            Ok(read) if read as u64 == length => {
                self.at += length;
                Ok(bytes)
            }
            _ => Err(self.cut_off()),
        }
    }

    fn cut_off(&self) -> String {
        match self.input.limit() {
            0 => format!(
                "its pickle is longer than {} MiB: these are no mere weights",
                LONGEST >> 20
            ),
            _ => format!("its pickle is cut off at byte {}", self.at),
        }
    }

    fn length4(&mut self) -> Result<u64, String> {
        self.array().map(|bytes| u32::from_le_bytes(bytes).into())
    }

    fn length8(&mut self) -> Result<u64, String> {
        self.array().map(u64::from_le_bytes)
    }

    fn skip(&mut self, length: u64) -> Result<(), String> {
        self.bytes(length)?;
        self.push(Object::Other)
    }

    /// A little-endian integer of any length; one of more than 64 bits is no length of anything.
    fn long(&mut self, length: u64) -> Result<(), String> {
        let bytes = self.bytes(length)?;
        let negative = bytes.last().is_some_and(|byte| byte & 0x80 != 0);
        let mut wide = [if negative { 0xff } else { 0 }; 8];
        let Some(low) = wide.get_mut(..bytes.len()) else {
            return self.push(Object::Other);
        };
        low.copy_from_slice(&bytes);
        self.push(Object::Int(i64::from_le_bytes(wide)))
    }

    fn push_text(&mut self, length: u64) -> Result<(), String> {
        let bytes = self.bytes(length)?;
        self.push(Object::Text(String::from_utf8_lossy(&bytes).into_owned()))
    }

    fn line(&mut self) -> Result<String, String> {
        const LONGEST_NAME: usize = 1 << 10;
        let mut bytes = Vec::new();
        loop {
            match self.byte()? {
                b'\n' => return Ok(String::from_utf8_lossy(&bytes).into_owned()),
                _ if bytes.len() == LONGEST_NAME => return Err("a name without an end".to_owned()),
                byte => bytes.push(byte),
            }
        }
    }

    fn room(&self, taken: usize) -> Result<(), String> {
        if taken < MOST {
            return Ok(());
        }
        Err(format!(
            "its pickle holds more than {MOST} objects: these are no mere weights"
        ))
    }

    fn push(&mut self, object: Object) -> Result<(), String> {
        self.room(self.objects.len())?;
        self.objects.push(object);
        self.push_id(self.objects.len() - 1)
    }

    fn push_id(&mut self, id: Id) -> Result<(), String> {
        self.room(self.stack.len())?;
        self.stack.push(id);
        Ok(())
    }

    fn top(&self) -> Result<Id, String> {
        let floor = self.marks.last().copied().unwrap_or(0);
        let above = self.stack.get(floor..).and_then(<[Id]>::last);
        above.copied().ok_or_else(|| self.damaged())
    }

    fn pop(&mut self) -> Result<Id, String> {
        let top = self.top()?;
        self.stack.pop();
        Ok(top)
    }

    fn pop_mark(&mut self) -> Result<Vec<Id>, String> {
        let floor = self.marks.pop().ok_or_else(|| self.damaged())?;
        Ok(self.stack.split_off(floor))
    }

    fn damaged(&self) -> String {
        format!("its pickle is damaged at byte {}", self.at)
    }

    fn pop_text(&mut self) -> Result<String, String> {
        let id = self.pop()?;
        match &self.objects[id] {
            Object::Text(text) => Ok(text.clone()),
            _ => Err(self.damaged()),
        }
    }

    fn append(&mut self, items: Vec<Id>) -> Result<(), String> {
        let top = self.top()?;
        if let Object::List(list) = &mut self.objects[top] {
            list.extend(items);
        }
        Ok(())
    }

    fn set(&mut self, items: &[Id]) -> Result<(), String> {
        let top = self.top()?;
        if let Object::Dict(entries) = &mut self.objects[top] {
            entries.extend(pairs(items));
        }
        Ok(())
    }

    fn put(&mut self, number: u32) -> Result<(), String> {
        let top = self.top()?;
        self.room(self.memo.len())?;
        self.memo.insert(number, top);
        Ok(())
    }

    fn fetch(&mut self, number: u32) -> Result<(), String> {
        let id = self.memo.get(&number).copied();
        let id = id.ok_or_else(|| self.damaged())?;
        self.push_id(id)
    }

    fn name(&mut self, module: &str, name: &str) -> Result<(), String> {
        if is_harmful(module, name) {
            return Err(format!(
                "its pickle names `{module}.{name}`, which has no place in a checkpoint: in Python, loading it may run a \
                 program. Here it is read as data, and nothing in it is called. If you trust its origin, save the weights \
                 alone: torch.save(model.state_dict(), FILE)"
            ));
        }
        self.push(Object::Named(format!("{module}.{name}")))
    }

    /// What would be made by a call: a tensor, a dictionary, or nothing that matters.
    fn make(&mut self, arguments: Id) -> Result<(), String> {
        let callee = self.pop()?;
        let (Object::Named(name), Object::Tuple(arguments)) =
            (&self.objects[callee], &self.objects[arguments])
        else {
            // What was itself made by a call, such as a class made on the way.
            return self.push(Object::Other);
        };
        match (name.as_str(), arguments.as_slice()) {
            ("torch._utils._rebuild_tensor_v2" | "torch._utils._rebuild_tensor", arguments) => {
                let place = self.tensor(arguments).ok_or_else(|| self.damaged())?;
                self.push(Object::Tensor(Box::new(place)))
            }
            (
                "torch._utils._rebuild_parameter" | "torch._utils._rebuild_parameter_with_state",
                &[tensor, ..],
            ) => self.push_id(tensor),
            // A subclass: the function that makes a plain tensor, the class, and the arguments.
            ("torch._tensor._rebuild_from_type_v2", &[make, _, arguments, ..]) => {
                self.push_id(make)?;
                self.nested += 1;
                if self.nested > MOST_AXES {
                    return Err(self.damaged());
                }
                let made = self.make(arguments);
                self.nested -= 1;
                made
            }
            // What is filled like a dictionary is one: OrderedDict, defaultdict, AttributeDict.
            (name, _) if name.to_ascii_lowercase().ends_with("dict") => {
                self.push(Object::Dict(Vec::new()))
            }
            _ => self.push(Object::Other),
        }
    }

    /// Storage, offset, shape, strides, and what is of no concern here.
    fn tensor(&self, arguments: &[Id]) -> Option<TensorPlace> {
        let &[storage, offset, shape, strides, ..] = arguments else {
            return None;
        };
        let Object::Storage(storage) = &self.objects[storage] else {
            return None;
        };
        let (shape, strides) = (self.sizes(shape)?, self.sizes(strides)?);
        (shape.len() == strides.len()).then_some(TensorPlace {
            storage: *storage,
            offset: self.size(offset)?,
            shape,
            strides,
        })
    }

    /// `('storage', class, key, device, elements)`.
    fn storage(&self, id: Id) -> Result<Storage, String> {
        let found = || {
            let Object::Tuple(parts) = &self.objects[id] else {
                return None;
            };
            let &[_, class, key, _, length, ..] = parts.as_slice() else {
                return None;
            };
            // Once there were views into storages; the sixth entry has been None for years.
            let view = parts.get(5).map(|&view| &self.objects[view]);
            let (Object::Named(class), Object::Text(_)) =
                (&self.objects[class], &self.objects[key])
            else {
                return None;
            };
            matches!(view, None | Some(Object::Other)).then_some(Storage {
                key,
                element: Element::of(class)?,
                length: self.size(length)?,
            })
        };
        found().ok_or_else(|| self.damaged())
    }

    fn size(&self, id: Id) -> Option<u64> {
        match self.objects[id] {
            Object::Int(value) => value.try_into().ok(),
            _ => None,
        }
    }

    fn sizes(&self, id: Id) -> Option<Vec<u64>> {
        match &self.objects[id] {
            Object::Tuple(items) if items.len() <= MOST_AXES => {
                items.iter().map(|&item| self.size(item)).collect()
            }
            _ => None,
        }
    }
}

/// Keys and values, one after the other.
fn pairs(items: &[Id]) -> Vec<(Id, Id)> {
    items
        .chunks_exact(2)
        .map(|pair| (pair[0], pair[1]))
        .collect()
}
