//! The binary `swav`.
fn main() {}
