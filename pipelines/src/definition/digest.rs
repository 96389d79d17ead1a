//! The fingerprint of a definition.

use blake3::Hasher;

use super::node::{Data, Node};

/// BLAKE3 over the tree, in hexadecimal. Comments, blanks and quoting do not count; the order of keys does, since it
/// numbers the sources and orders the columns. Secrets count by their references.
pub(super) fn digest(root: &Node) -> String {
    let mut hasher = Hasher::new();
    hasher.update(b"millstream definition 1");
    write(root, &mut hasher);
    hasher.finalize().to_hex().to_string()
}

fn write(node: &Node, hasher: &mut Hasher) {
    let mut text = |tag: u8, text: &str| {
        hasher.update(&[tag]);
        hasher.update(&(text.len() as u64).to_le_bytes());
        hasher.update(text.as_bytes());
    };
    match &node.data {
        Data::Null => text(b'0', ""),
        Data::Bool(value) => text(b'b', if *value { "1" } else { "0" }),
        Data::Number(number) => text(b'n', &number.to_string()),
        Data::Text(value) => text(b't', value),
        Data::Reference(reference) => text(b'r', &reference.to_string()),
        Data::List(items) => {
            text(b'l', &items.len().to_string());
            for item in items {
                write(item, hasher);
            }
        }
        Data::Map(entries) => {
            text(b'm', &entries.len().to_string());
            for entry in entries {
                hasher.update(&(entry.key.len() as u64).to_le_bytes());
                hasher.update(entry.key.as_bytes());
                write(&entry.value, hasher);
            }
        }
    }
}
