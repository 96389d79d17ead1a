//! Whose answer a request gets, where several models answer it.

use std::sync::Arc;

use millstream_engine::batch::DIFF;
use millstream_engine::catalogue::column;
use millstream_engine::operator::Choose;

use super::streams::Graph;
use super::{Checker, component, config, section_of};
use crate::definition::{Data, Entry, Node, Span};
use crate::report::Finding;

/// What a policy is checked against.
#[derive(Clone, Copy)]
pub(super) struct Around<'a> {
    pub(super) root: &'a Node,
    pub(super) graph: &'a Graph,
    /// The sources' names.
    pub(super) sources: &'a [&'a str],
    /// The source that the requests enter, and their own model.
    pub(super) own: Option<(usize, &'a str)>,
}

/// The models that answer beside the requests' own, and whose answer is given; without a policy, none.
#[derive(Default)]
pub(super) struct Beside {
    pub(super) others: Vec<String>,
    pub(super) choose: Option<Arc<dyn Choose>>,
}

impl Checker<'_> {
    /// What the policy of some requests says; `None` where it is not sound.
    pub(super) fn policy(&mut self, requests: &Entry, around: Around<'_>) -> Option<Beside> {
        let Some(entry) = requests.value.entry("policy").filter(|entry| entry.value.data != Data::Null) else {
            return Some(Beside::default());
        };
        if !entry.value.is_sound() {
            return None;
        }
        let (name, configured) = component(entry)?;
        let kind = self.catalogue.policies.iter().find(|kind| kind.name == name)?;
        let policy = match (kind.plan)(&config(&configured, &self.secrets)) {
            Ok(policy) => policy,
            Err(problems) => {
                self.problems(&configured, problems);
                return None;
            }
        };
        let (enters, own) = around.own?;
        let before = self.findings.len();
        for name in &policy.others {
            let span = named(&entry.value, name).unwrap_or(entry.value.span);
            self.other_model((name, span), (enters, own), around);
        }
        if let Some((path, name)) = &policy.column {
            let models = std::iter::once(own).chain(policy.others.iter().map(String::as_str));
            let unknown = models.filter_map(|model| around.graph.known.get(model)).find_map(|known| {
                column(&known.schema, path, name).err().map(|problem| (known.doubt.clone(), problem))
            });
            if let Some((doubt, problem)) = unknown {
                self.own_problems(&configured, &doubt, vec![problem]);
            }
        }
        let is_sound = self.findings.len() == before;
        is_sound.then_some(Beside { others: policy.others, choose: Some(policy.choose) })
    }

    /// Notes why a model cannot answer in the place of the requests' own.
    fn other_model(&mut self, (name, span): (&str, Span), (enters, own): (usize, &str), around: Around<'_>) {
        let names: Vec<&str> = section_of(around.root, "models").iter().map(|entry| entry.key.as_str()).collect();
        if name == own {
            let message = format!("`{name}` is the requests' own model already");
            return self.find(Finding::error(span, "named-twice", message).help("name the models beside it"));
        }
        if !names.contains(&name) {
            let message = format!("there is no model `{name}`");
            return self.find(Finding::error(span, "unknown-model", message).choices(name, &names));
        }
        self.downstream(span, enters, name, around.graph, around.sources);
        if let (Some(ours), Some(theirs)) = (predictions(own, around), predictions(name, around))
            && ours != theirs
        {
            let message = format!("`{name}` predicts something else than `{own}`");
            let help = format!("it gives {}, and `{own}` {}", theirs.join(", "), ours.join(", "));
            self.find(Finding::error(span, "other-predictions", message).help(help));
        }
    }
}

/// The columns that a model adds to its input: what it predicts.
fn predictions(model: &str, around: Around<'_>) -> Option<Vec<String>> {
    let entry = section_of(around.root, "models").iter().find(|entry| entry.key == model)?;
    let sound = |name: &str| around.graph.known.get(name).filter(|known| known.doubt.is_none());
    let (input, output) = (sound(entry.value.get("input")?.text()?)?, sound(model)?);
    let added = output.schema.fields().iter().filter(|field| field.name() != DIFF);
    let added = added.filter(|field| input.schema.field_with_name(field.name()).is_err());
    Some(added.map(|field| format!("{} ({})", field.name(), field.data_type())).collect())
}

/// Where a model is named, in a list or as a key.
fn named(node: &Node, name: &str) -> Option<Span> {
    let item = (node.text() == Some(name)).then_some(node.span);
    let key = || node.entry(name).map(|entry| entry.key_span);
    let below = || {
        let nodes = node.items().iter().chain(node.entries().iter().map(|entry| &entry.value));
        nodes.into_iter().find_map(|node| named(node, name))
    };
    item.or_else(key).or_else(below)
}
