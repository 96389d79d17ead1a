//! Takes state out of a checkpoint.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::manifest::PARTS;
use super::{Manifest, Object, Section, Store};
use crate::binding::Epoch;
use crate::fault::{Fault, Result};
use crate::graph::Graph;

/// A checkpoint whose objects are all there and whole.
#[derive(Clone)]
pub struct Checkpoint {
    store: Arc<dyn Store>,
    manifest: Manifest,
}

/// What is stored in a section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// The section's name.
    pub section: String,
    /// How many pieces it has: bins, partitions, or one.
    pub pieces: usize,
    /// How many bytes they have.
    pub bytes: u64,
}

/// Checks that every object of a checkpoint is there and whole.
pub fn open(store: &Arc<dyn Store>, manifest: Manifest) -> Result<Checkpoint> {
    for (name, section) in &manifest.sections {
        let fits = |piece: &super::Piece| {
            let object = section.objects.get(piece.object as usize);
            object.is_some_and(|object| piece.at.checked_add(piece.bytes).is_some_and(|end| end <= object.bytes))
        };
        if !section.pieces.values().all(fits) {
            return Err(Fault::world(format!("a piece of {name} is outside of its object")));
        }
        for object in &section.objects {
            read(&**store, object)?;
        }
    }
    Ok(Checkpoint { store: store.clone(), manifest })
}

/// Reads an object, and checks that it is the one that was written.
fn read(store: &dyn Store, object: &Object) -> Result<Vec<u8>> {
    let name = &object.name;
    let content = store.get(name)?.ok_or_else(|| Fault::world(format!("{name} is missing")))?;
    let is_whole = content.len() as u64 == object.bytes && format!("{PARTS}{}", crate::digest::of(&content)) == *name;
    if is_whole { Ok(content) } else { Err(Fault::world(format!("{name} is damaged or cut short"))) }
}

impl Checkpoint {
    /// One whose objects are read when they are asked for, and not before.
    pub(crate) fn of(store: Arc<dyn Store>, manifest: Manifest) -> Self {
        Self { store, manifest }
    }

    pub(crate) fn store(&self) -> &dyn Store {
        &*self.store
    }

    /// The first epoch that is not in it.
    pub fn epoch(&self) -> Epoch {
        self.manifest.epoch
    }

    /// What it consists of.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// What is stored, by section.
    pub fn stored(&self) -> impl Iterator<Item = Stored> {
        self.manifest.sections.iter().map(|(name, section)| Stored {
            section: name.clone(),
            pieces: section.pieces.len(),
            bytes: section.bytes(),
        })
    }

    /// Keeps the state of some sections only; the other operators start empty.
    pub fn keep(&mut self, mut wanted: impl FnMut(&str) -> bool) {
        self.manifest.sections.retain(|name, _| wanted(name));
        let sections = &self.manifest.sections;
        self.manifest.revisions.retain(|model, _| sections.contains_key(model));
    }

    /// Calls sections, and the models that they are of, as `now` says.
    pub fn rename(&mut self, now: impl Fn(&str) -> String) {
        let manifest = &mut self.manifest;
        manifest.sections =
            std::mem::take(&mut manifest.sections).into_iter().map(|(was, it)| (now(&was), it)).collect();
        manifest.revisions =
            std::mem::take(&mut manifest.revisions).into_iter().map(|(was, it)| (now(&was), it)).collect();
    }

    /// Gives the pieces of a section whose keys are `wanted`; none where there is no such section. Objects are read one at
    /// a time, and checked again.
    pub fn each(
        &self,
        section: &str,
        wanted: impl Fn(u32) -> bool,
        mut take: impl FnMut(u32, &[u8]) -> Result<()>,
    ) -> Result<()> {
        let Some(Section { objects, pieces, .. }) = self.manifest.sections.get(section) else { return Ok(()) };
        let mut by_object: BTreeMap<u32, Vec<(u32, super::Piece)>> = BTreeMap::new();
        for (key, piece) in pieces.iter().filter(|(key, _)| wanted(**key)) {
            by_object.entry(piece.object).or_default().push((*key, *piece));
        }
        for (object, pieces) in by_object {
            let content = read(&*self.store, &objects[object as usize])?;
            for (key, piece) in pieces {
                take(key, &content[piece.at as usize..(piece.at + piece.bytes) as usize])?;
            }
        }
        Ok(())
    }

    /// Where to read on, by (source, partition) of `graph`: sources are known by their names.
    pub(crate) fn offsets(&self, graph: &Graph) -> Result<BTreeMap<(u32, u32), u64>> {
        let mut offsets = BTreeMap::new();
        for ((source, partition), offset) in &self.manifest.offsets {
            let name = self.manifest.sources.get(*source as usize);
            let Some(at) = graph.sources.iter().position(|node| Some(&node.name) == name) else { continue };
            if at != *source as usize && !graph.is_serving(at) {
                let name = &graph.sources[at].name;
                return Err(Fault::world(format!(
                    "the checkpoint of epoch {} does not fit: source {name} was number {source}, and is number {at}",
                    self.epoch()
                )));
            }
            offsets.insert((at as u32, *partition), *offset);
        }
        Ok(offsets)
    }
}
