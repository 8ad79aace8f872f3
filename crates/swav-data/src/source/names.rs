//! Many names in little memory: one arena of bytes, no allocation a name.
//!
//! Names of one folder come sorted and begin alike, so each is kept as what it shares with the one
//! before it and what it adds ("front coding"; Witten, Moffat and Bell, "Managing Gigabytes", 1999).
//! Every sixteenth stands whole, and its place in the arena is known, so any name is found by
//! reading fifteen others at most.

use std::ffi::OsString;

/// How many names lie between two whole ones.
const BLOCK: usize = 16;

/// A list of byte strings that grows at its end.
#[derive(Clone, Debug, Default)]
pub(super) struct Names {
    /// For each name: length shared with the one before it, length of the rest, the rest.
    arena: Vec<u8>,
    /// Where every sixteenth name begins.
    blocks: Vec<u64>,
    len: usize,
    last: Vec<u8>,
}

impl Names {
    /// How many names there are.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Appends a name.
    pub(super) fn push(&mut self, name: &[u8]) {
        let shared = if self.len.is_multiple_of(BLOCK) {
            self.blocks.push(self.arena.len() as u64);
            0
        } else {
            let pairs = self.last.iter().zip(name);
            pairs.take_while(|(one, other)| one == other).count()
        };
        put(&mut self.arena, shared);
        put(&mut self.arena, name.len() - shared);
        self.arena.extend_from_slice(&name[shared..]);
        self.last.truncate(shared);
        self.last.extend_from_slice(&name[shared..]);
        self.len += 1;
    }

    /// Name number `index`.
    ///
    /// # Panics
    /// When there are not as many.
    pub(super) fn get(&self, index: usize) -> Vec<u8> {
        assert!(index < self.len, "name {index} of {}", self.len);
        let mut at = self.blocks[index / BLOCK] as usize;
        let mut name = Vec::new();
        for _ in 0..=index % BLOCK {
            let shared = take(&self.arena, &mut at);
            let rest = take(&self.arena, &mut at);
            name.truncate(shared);
            name.extend_from_slice(&self.arena[at..at + rest]);
            at += rest;
        }
        name
    }

    /// Gives back what was reserved for names that did not come.
    pub(super) fn shrink(&mut self) {
        self.arena.shrink_to_fit();
        self.blocks.shrink_to_fit();
        self.last = Vec::new();
    }
}

/// Appends a number, seven bits a byte, the lowest first.
fn put(arena: &mut Vec<u8>, mut number: usize) {
    while number >= 0x80 {
        arena.push(number as u8 | 0x80);
        number >>= 7;
    }
    arena.push(number as u8);
}

/// Reads a number that [`put`] has written.
fn take(arena: &[u8], at: &mut usize) -> usize {
    let (mut number, mut shift) = (0, 0);
    loop {
        let byte = arena[*at];
        *at += 1;
        number |= usize::from(byte & 0x7F) << shift;
        shift += 7;
        if byte < 0x80 {
            return number;
        }
    }
}

/// A name as the operating system takes it.
#[cfg(unix)]
pub(super) fn os_string(name: Vec<u8>) -> OsString {
    std::os::unix::ffi::OsStringExt::from_vec(name)
}

/// A name as the operating system takes it. What is not Unicode does not survive here.
#[cfg(not(unix))]
pub(super) fn os_string(name: Vec<u8>) -> OsString {
    String::from_utf8_lossy(&name).into_owned().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_back_as_they_went_in() {
        let mut names = Names::default();
        let made: Vec<Vec<u8>> = (0..1000usize)
            .map(|i| match i % 50 {
                0 => vec![],
                1 => vec![0xFF; 300],
                _ => format!("n01440764/n01440764_{}.JPEG", i * i % 7919).into_bytes(),
            })
            .collect();
        made.iter().for_each(|name| names.push(name));
        names.shrink();
        assert_eq!(names.len(), made.len());
        for (index, name) in made.iter().enumerate().rev() {
            assert_eq!(names.get(index), *name, "{index}");
        }
    }

    #[test]
    fn sorted_names_take_little_more_than_what_tells_them_apart() {
        let mut names = Names::default();
        for i in 0..100_000 {
            names.push(format!("n01440764_{i:06}.JPEG").as_bytes());
        }
        names.shrink();
        let bytes = names.arena.len() + 8 * names.blocks.len();
        assert!(bytes < 12 * names.len(), "{bytes} bytes");
    }
}
