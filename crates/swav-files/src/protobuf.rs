//! Messages of protocol buffers, as ONNX and TensorBoard have them
//! ([encoding](https://protobuf.dev/programming-guides/encoding/)).

/// A message, as its bytes; fields are told by their numbers.
#[derive(Clone, Debug, Default)]
pub struct Message(Vec<u8>);

impl Message {
    /// What has been written.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn key(&mut self, field: u32, wire: u64) {
        self.varint(u64::from(field) << 3 | wire);
    }

    /// Adds a whole number.
    pub fn number(&mut self, field: u32, value: u64) {
        self.key(field, 0);
        self.varint(value);
    }

    /// Adds a number of 32 bits.
    pub fn float(&mut self, field: u32, value: f32) {
        self.key(field, 5);
        self.0.extend(value.to_le_bytes());
    }

    /// Adds a number of 64 bits.
    pub fn double(&mut self, field: u32, value: f64) {
        self.key(field, 1);
        self.0.extend(value.to_le_bytes());
    }

    /// Adds bytes.
    pub fn bytes(&mut self, field: u32, value: &[u8]) {
        self.key(field, 2);
        self.varint(value.len() as u64);
        self.0.extend_from_slice(value);
    }

    /// Adds text.
    pub fn text(&mut self, field: u32, value: &str) {
        self.bytes(field, value.as_bytes());
    }

    /// Adds another message.
    pub fn message(&mut self, field: u32, value: Self) {
        self.bytes(field, &value.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_texts_are_encoded_as_the_format_says() {
        let mut message = Message::default();
        message.number(1, 300);
        message.text(2, "hi");
        message.float(3, 1.0);
        let expected = [8, 0xAC, 2, 18, 2, b'h', b'i', 29, 0, 0, 0x80, 0x3F];
        assert_eq!(message.0, expected);
    }
}
