//! What a checkpoint consists of. It is written last, and says by its own checksum that it is whole.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Object, Store};
use crate::binding::{Epoch, Frontier};
use crate::fault::{Fault, Result};
use crate::publish::RevisionMark;

/// The names of manifests start with this.
pub(super) const MANIFESTS: &str = "manifests/";
/// The names of what they list start with this.
pub(super) const PARTS: &str = "parts/";
/// The form of manifests and pieces.
const VERSION: u32 = 3;
/// The oldest form that is read: it has no [`Section::spread`].
const OLDEST: u32 = 2;

/// What a checkpoint consists of: all state for the epochs before [`Manifest::epoch`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// The form that it is written in.
    version: u32,
    /// The first epoch that is not in it.
    pub epoch: Epoch,
    /// The sources' names, by their index.
    pub sources: Vec<String>,
    /// By (source, partition) of both lanes: the offset after the last record bound before the epoch.
    #[serde(with = "pairs")]
    pub offsets: BTreeMap<(u32, u32), u64>,
    /// The partitions that held back nobody, sorted.
    pub idle: Vec<(u32, u32)>,
    /// What was complete.
    pub frontier: Frontier,
    /// By model: its newest revision.
    pub revisions: BTreeMap<String, RevisionMark>,
    /// The pipeline's own words.
    pub note: Value,
    /// The state, by section.
    pub sections: BTreeMap<String, Section>,
}

/// The state of one operator, over all workers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Section {
    /// The objects that hold its pieces.
    pub objects: Vec<Object>,
    /// Its pieces by bin, partition, or 0.
    pub pieces: BTreeMap<u32, Piece>,
    /// The places in its keys of the columns by which they have their bins; none for all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub spread: Vec<usize>,
}

/// Where a piece is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Piece {
    /// The index of its object in its section.
    pub object: u32,
    /// Where it starts there.
    pub at: u64,
    /// How long it is.
    pub bytes: u64,
}

impl Section {
    /// How many bytes its pieces have.
    pub fn bytes(&self) -> u64 {
        self.pieces.values().map(|piece| piece.bytes).sum()
    }
}

/// A map whose keys JSON does not know, as a list.
mod pairs {
    use std::collections::BTreeMap;

    use serde::{Deserialize, Deserializer, Serializer};

    type Pairs = BTreeMap<(u32, u32), u64>;

    pub(super) fn serialize<S: Serializer>(pairs: &Pairs, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(pairs.iter().map(|((source, partition), offset)| (source, partition, offset)))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Pairs, D::Error> {
        let list = Vec::<(u32, u32, u64)>::deserialize(deserializer)?;
        Ok(list.into_iter().map(|(source, partition, offset)| ((source, partition), offset)).collect())
    }
}

impl Manifest {
    pub(super) fn new(epoch: Epoch) -> Self {
        Self {
            version: VERSION,
            epoch,
            sources: Vec::new(),
            offsets: BTreeMap::new(),
            idle: Vec::new(),
            frontier: Frontier::default(),
            revisions: BTreeMap::new(),
            note: Value::Null,
            sections: BTreeMap::new(),
        }
    }

    /// The manifest's name: of the larger epoch the larger text.
    pub fn name(&self) -> String {
        format!("{MANIFESTS}{:020}", self.epoch)
    }

    /// How many bytes the checkpoint's pieces have.
    pub fn bytes(&self) -> u64 {
        self.sections.values().map(Section::bytes).sum()
    }

    /// The objects that it lists.
    pub fn objects(&self) -> impl Iterator<Item = &Object> {
        self.sections.values().flat_map(|section| &section.objects)
    }

    /// As it is stored: JSON that starts with the checksum of the rest.
    pub fn encode(&self) -> Result<Vec<u8>> {
        let manifest =
            serde_json::to_string(self).map_err(|error| Fault::ours("a manifest cannot be written").because(error))?;
        let [start, middle, end] = FRAME;
        Ok([start, &crate::digest::of(manifest.as_bytes()), middle, &manifest, end].concat().into_bytes())
    }

    /// Reads what [`Manifest::encode`] gave; anything else, be it by one bit, is an error.
    pub fn decode(content: &[u8]) -> Result<Self> {
        let damaged = || Fault::world("the manifest is damaged or cut short");
        let [start, middle, end] = FRAME.map(str::as_bytes);
        let rest = content.strip_prefix(start).and_then(|rest| rest.strip_suffix(end)).ok_or_else(damaged)?;
        let (checksum, rest) = rest.split_at_checked(CHECKSUM).ok_or_else(damaged)?;
        let manifest = rest.strip_prefix(middle).ok_or_else(damaged)?;
        if crate::digest::of(manifest).as_bytes() != checksum {
            return Err(damaged());
        }
        let unknown = |why: &dyn std::fmt::Display| Fault::world(format!("the manifest is of another program: {why}"));
        let manifest: Self = serde_json::from_slice(manifest).map_err(|error| unknown(&error))?;
        if !(OLDEST..=VERSION).contains(&manifest.version) {
            return Err(unknown(&format!("it has form {}, this one knows {OLDEST} to {VERSION}", manifest.version)));
        }
        Ok(manifest)
    }
}

/// What stands around the checksum and the manifest.
const FRAME: [&str; 3] = ["{\"checksum\":\"", "\",\"manifest\":", "}\n"];
/// How long a checksum is.
const CHECKSUM: usize = 64;

/// A manifest that a store has.
#[derive(Debug)]
pub struct Listed {
    /// The first epoch that is not in its checkpoint.
    pub epoch: Epoch,
    /// Its name.
    pub name: String,
    /// What it says, or why it cannot be used.
    pub manifest: Result<Manifest>,
}

/// The manifests that a store has, newest first, also those that cannot be used. Objects are checked by [`super::open`].
pub fn list(store: &dyn Store) -> Result<Vec<Listed>> {
    let read = |(epoch, name): (Epoch, String)| {
        let manifest = read(store, epoch, &name).flatten();
        Listed { epoch, name, manifest }
    };
    Ok(names(store)?.into_iter().map(read).collect())
}

/// The manifests' epochs and names, newest first.
pub(super) fn names(store: &dyn Store) -> Result<Vec<(Epoch, String)>> {
    let epoch = |object: Object| Some((object.name.strip_prefix(MANIFESTS)?.parse().ok()?, object.name));
    let mut names: Vec<_> = store.list(MANIFESTS)?.into_iter().filter_map(epoch).collect();
    names.sort_unstable_by(|a, b| b.cmp(a));
    Ok(names)
}

/// Reads a manifest. An error outside is the store's, one inside the manifest's.
pub(super) fn read(store: &dyn Store, epoch: Epoch, name: &str) -> Result<Result<Manifest>> {
    let Some(content) = store.get(name)? else {
        return Ok(Err(Fault::world(format!("{name} is gone"))));
    };
    let named = |fault: Fault| Fault::world(format!("{name}: {fault}"));
    let manifest = Manifest::decode(&content).map_err(named);
    Ok(manifest.and_then(|manifest| {
        let is_its_own = manifest.epoch == epoch && manifest.name() == name;
        if is_its_own { Ok(manifest) } else { Err(named(Fault::world("the manifest has another's name"))) }
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_form_before_is_read() {
        let manifest = Manifest::new(7);
        let of = |version: u32| Manifest::decode(&Manifest { version, ..manifest.clone() }.encode()?);
        assert_eq!(of(VERSION).expect("its own"), manifest);
        assert_eq!(of(OLDEST).expect("the oldest").epoch, 7);
        for unknown in [OLDEST - 1, VERSION + 1] {
            let fault = of(unknown).expect_err("another program's").to_string();
            assert!(fault.contains(&format!("it has form {unknown}, this one knows 2 to 3")), "{fault}");
        }
    }
}
