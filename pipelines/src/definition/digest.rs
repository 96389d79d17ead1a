//! The fingerprint of a definition.

use blake3::Hasher;

use super::node::{Data, Entry, Node};

/// What may be changed from run to run, since no result depends on it:
///
/// - `epochs`, `workers`, `processes`: results depend neither on how the stream was cut nor on who works on it. Which revision
///   answers a request does depend on the cut, but that is recorded before it is used;
/// - `checkpoints`, `delivery`: how often state is written down, and how what leaves becomes durable;
/// - `registry`: where versions are kept; what models begin with counts by its content;
/// - `serve`: an address; `lineage`: a topic;
/// - `sweeps`, `tests`: they run beside the pipeline.
///
/// Everything else counts, also where it seems harmless: the digest is what a replay stands on.
const OPERATIONAL: [&str; 10] =
    ["epochs", "workers", "processes", "checkpoints", "registry", "delivery", "serve", "lineage", "sweeps", "tests"];

/// BLAKE3 over all of the tree that may change results, in hexadecimal. Comments, blanks and quoting do not count; the
/// order of keys does, since it numbers the sources and orders the columns. Secrets count by their references.
pub(super) fn digest(root: &Node) -> String {
    let counts = |entry: &Entry| !OPERATIONAL.contains(&entry.key.as_str());
    match &root.data {
        Data::Map(entries) => {
            let entries = entries.iter().filter(|entry| counts(entry)).cloned().collect();
            of("definition", &Node::new(root.span, Data::Map(entries)))
        }
        _ => of("definition", root),
    }
}

/// BLAKE3 over a whole tree that stands for `what`, in hexadecimal.
pub fn of(what: &str, node: &Node) -> String {
    let mut hasher = Hasher::new();
    hasher.update(format!("millstream {what} 1").as_bytes());
    write(node, &mut hasher);
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
