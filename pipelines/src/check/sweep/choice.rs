//! Alternatives: components by kind, enums, values of several types.

use serde_json::Value;

use super::{Site, Sweep, fits, words};
use crate::definition::{Data, Entry, Node};
use crate::report::Finding;

/// The alternatives of a schema, none of which has alternatives itself.
#[derive(Default)]
pub(super) struct Choice<'a> {
    title: Option<&'a str>,
    pub(super) leaves: Vec<&'a Value>,
}

impl<'a> Choice<'a> {
    fn tags(&self) -> Vec<&'a str> {
        self.leaves.iter().filter_map(|leaf| tag(leaf)).collect()
    }
}

pub(super) fn choices_of(schema: &Value) -> Option<&Vec<Value>> {
    schema["oneOf"].as_array().or_else(|| schema["anyOf"].as_array())
}

/// The name of an alternative that is a map of one key: the kind of a component, the variant of an enum.
fn tag(leaf: &Value) -> Option<&str> {
    let [only] = leaf["required"].as_array()?.as_slice() else { return None };
    let single = leaf["properties"].as_object()?.len() == 1 && leaf["additionalProperties"] == Value::Bool(false);
    only.as_str().filter(|_| single)
}

impl<'a> Sweep<'a> {
    /// Collects the alternatives of a schema, through references and alternatives of alternatives.
    pub(super) fn flatten(&self, schema: &'a Value, choice: &mut Choice<'a>) {
        let schema = self.resolve(schema);
        choice.title = choice.title.or(schema["title"].as_str());
        match choices_of(schema) {
            Some(choices) => choices.iter().for_each(|schema| self.flatten(schema, choice)),
            None => choice.leaves.push(schema),
        }
    }

    pub(super) fn choice(&mut self, node: &Node, site: &Site<'_>, choice: &Choice<'a>) -> Node {
        let fitting: Vec<&'a Value> = choice.leaves.iter().copied().filter(|leaf| fits(node, leaf)).collect();
        match &node.data {
            _ if fitting.is_empty() && node.text().is_none() => self.wrong_type(node, site, &choice.leaves),
            Data::Text(text) => self.choice_of_text(node, text, site, choice, &fitting),
            Data::Map(entries) => self.choice_of_map(node, entries, site, choice, &fitting),
            _ => match fitting.as_slice() {
                [one] => self.node(node, site, one),
                // Where several fit, the component decides.
                _ => node.clone(),
            },
        }
    }

    fn choice_of_text(
        &mut self,
        node: &Node,
        text: &str,
        site: &Site<'_>,
        choice: &Choice<'a>,
        fitting: &[&Value],
    ) -> Node {
        let mut allowed: Vec<&str> = fitting.iter().flat_map(|leaf| words(leaf)).collect();
        if fitting.iter().any(|leaf| words(leaf).is_empty()) || allowed.contains(&text) {
            return node.clone();
        }
        let tags = choice.tags();
        if tags.contains(&text) {
            let help = format!("write `{text}: {{…}}`");
            self.find(
                Finding::error(node.span, "missing-configuration", format!("`{text}` needs a configuration"))
                    .help(help),
            );
            return Node { sound: false, ..node.clone() };
        }
        allowed.extend(tags);
        if allowed.is_empty() {
            return self.wrong_type(node, site, &choice.leaves);
        }
        self.word(node, text, &allowed, choice.title)
    }

    fn choice_of_map(
        &mut self,
        node: &Node,
        entries: &[Entry],
        site: &Site<'_>,
        choice: &Choice<'a>,
        fitting: &[&'a Value],
    ) -> Node {
        let (mut tagged, mut plain): (Vec<&'a Value>, Vec<&'a Value>) =
            fitting.iter().partition(|leaf| tag(leaf).is_some());
        if choice.title.is_none() && tagged.len() == 1 && choice.leaves.iter().all(|leaf| words(leaf).is_empty()) {
            // Not a choice of kinds, but a map with one key.
            plain.append(&mut tagged);
        }
        if tagged.is_empty() {
            return match plain.as_slice() {
                [one] => self.node(node, site, one),
                _ => node.clone(),
            };
        }
        let named = entries.iter().find_map(|entry| {
            tagged.iter().copied().find(|leaf| tag(leaf) == Some(&entry.key)).map(|leaf| (entry, leaf))
        });
        match (entries, named) {
            ([_], Some((entry, leaf))) => self.tagged(node, entry, leaf),
            (_, None) if !plain.is_empty() => node.clone(),
            ([entry], None) => {
                let allowed: Vec<&str> =
                    choice.tags().into_iter().chain(choice.leaves.iter().flat_map(|leaf| words(leaf))).collect();
                self.unknown_word(entry.key_span, &entry.key, &allowed, choice.title);
                Node { sound: false, ..node.clone() }
            }
            _ => {
                let what = choice.title.unwrap_or("choice");
                let message =
                    format!("a {what} is one kind with its configuration, and here are {} keys", entries.len());
                let mark = entries.get(1).map_or(site.mark, |entry| entry.key_span);
                self.find(
                    Finding::error(mark, "one-kind", message).help("`{kind: {…}}`; indent what belongs to the kind"),
                );
                Node { sound: false, ..node.clone() }
            }
        }
    }

    fn tagged(&mut self, node: &Node, entry: &Entry, leaf: &'a Value) -> Node {
        let mut value = entry.value.clone();
        if value.data == Data::Null {
            value.data = Data::Map(Vec::new());
        }
        let site = Site { name: &entry.key, mark: entry.key_span };
        let value = self.node(&value, &site, &leaf["properties"][&entry.key]);
        Node { data: Data::Map(vec![Entry { value, ..entry.clone() }]), ..node.clone() }
    }
}
