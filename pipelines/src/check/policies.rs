//! Whose answer a request gets, where several models answer it.

use millstream_engine::batch::DIFF;
use millstream_engine::catalogue::column;
use millstream_operators::inference::policies::PlannedChoice;
use millstream_operators::inference::{FeatureConfig, PREDICTED_ACTION};

use super::streams::Graph;
use super::{Checker, Known, component, config, section_of};
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
    pub(super) choose: Option<PlannedChoice>,
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
        if let PlannedChoice::Learned(router) = &policy.choose {
            let span = configured.value.entry("by").map_or(entry.value.span, |by| by.value.span);
            let models: Vec<&str> = std::iter::once(own).chain(policy.others.iter().map(String::as_str)).collect();
            self.router((router, span), &models, around);
        }
        let is_sound = self.findings.len() == before;
        is_sound.then_some(Beside { others: policy.others, choose: Some(policy.choose) })
    }

    /// Notes why a model cannot answer in the place of the requests' own.
    fn other_model(&mut self, (name, span): (&str, Span), (enters, own): (usize, &str), around: Around<'_>) {
        if name == own {
            let message = format!("`{name}` is the requests' own model already");
            return self.find(Finding::error(span, "named-twice", message).help("name the models beside it"));
        }
        if self.model_named(name, span, around).is_none() {
            return;
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

    /// The model of a name; notes that there is none.
    fn model_named<'a>(&mut self, name: &str, span: Span, around: Around<'a>) -> Option<&'a Entry> {
        let models = section_of(around.root, "models");
        let found = models.iter().find(|entry| entry.key == name);
        if found.is_none() {
            let message = format!("there is no model `{name}`");
            let names = models.iter().map(|entry| entry.key.as_str());
            self.find(Finding::error(span, "unknown-model", message).choices(name, names));
        }
        found
    }

    /// Notes why a model cannot choose among those that answer.
    fn router(&mut self, (name, span): (&str, Span), answering: &[&str], around: Around<'_>) {
        let Some(entry) = self.model_named(name, span, around) else { return };
        if answering.contains(&name) {
            let message = format!("`{name}` cannot both choose and answer");
            let help = "name a model beside those that answer, whose actions they are";
            return self.find(Finding::error(span, "named-twice", message).help(help));
        }
        let Some(known) = around.graph.known.get(name).filter(|known| known.doubt.is_none()).cloned() else { return };
        if known.schema.index_of(PREDICTED_ACTION).is_err() {
            let message = format!("`{name}` chooses nothing");
            let help = format!(
                "give it a learner that chooses, such as `thompson_sampling`, and `actions: [{}]`",
                answering.join(", ")
            );
            return self.find(Finding::error(span, "chooses-nothing", message).help(help));
        }
        let actions = entry.value.get("actions").map_or(&[][..], Node::items);
        for action in actions {
            if let Some(text) = action.text().filter(|text| !answering.contains(text)) {
                let message = format!("`{text}` is none of the models among which `{name}` chooses");
                self.find(Finding::error(action.span, "unknown-model", message).choices(text, answering));
            }
        }
        for model in answering.iter().filter(|model| !actions.iter().any(|action| action.text() == Some(model))) {
            let message = format!("`{model}` is no action of `{name}`, so it would never be chosen");
            let help = format!("write `actions: [{}]` in `{name}`", answering.join(", "));
            self.find(Finding::error(span, "no-action", message).help(help));
        }
        for feature in entry.value.get("features").map_or(&[][..], Node::items) {
            self.asked_with(feature, &known, answering, around);
        }
    }

    /// Makes a finding of a feature of a router, which has these columns, that requests do not have.
    fn asked_with(&mut self, feature: &Node, router: &Known, answering: &[&str], around: Around<'_>) {
        let Ok(config) = serde_json::from_value::<FeatureConfig>(feature.to_value(&self.secrets)) else { return };
        let models = section_of(around.root, "models").iter().filter(|entry| answering.contains(&entry.key.as_str()));
        let inputs = models.filter_map(|entry| around.graph.known.get(entry.value.get("input")?.text()?));
        let inputs: Vec<_> = inputs.filter(|known| known.doubt.is_none()).collect();
        for name in config.columns() {
            let Ok(wanted) = router.schema.field_with_name(name) else { continue };
            let has = |known: &&Known| {
                known.schema.field_with_name(name).is_ok_and(|field| field.data_type() == wanted.data_type())
            };
            if !inputs.iter().all(has) {
                let message = format!("requests have no column `{name}` of type {}", wanted.data_type());
                let help = "they have the columns of the input of the models that answer";
                self.find(Finding::error(feature.span, "unknown-column", message).help(help));
            }
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
