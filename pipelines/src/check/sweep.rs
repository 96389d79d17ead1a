//! Everything that is wrong with the form of a definition, by its schema.
//!
//! The sweep goes on after each finding, and gives back the tree as it was most likely meant: a misspelt key under its
//! right name, an unknown one left out. What could not be mended is marked as not sound.

mod choice;

use serde_json::Value;

use self::choice::{Choice, choices_of};
use crate::definition::{Data, Entry, Node, Span};
use crate::report::{Finding, nearest};

/// Checks the form of `root` against a schema of the whole file.
pub(super) fn sweep(root: &Node, schema: &Value) -> (Node, Vec<Finding>) {
    let mut sweep = Sweep { schema, findings: Vec::new() };
    let top = Span { end: root.span.start, ..root.span };
    let root = sweep.node(root, &Site { name: "the definition", mark: top }, schema);
    (root, sweep.findings)
}

struct Sweep<'a> {
    schema: &'a Value,
    findings: Vec<Finding>,
}

/// Where the sweep is: what to call it, and what to point at.
struct Site<'a> {
    name: &'a str,
    mark: Span,
}

impl<'a> Sweep<'a> {
    fn find(&mut self, finding: Finding) {
        self.findings.push(finding);
    }

    fn resolve(&self, mut schema: &'a Value) -> &'a Value {
        // A chain of references that long would be a mistake of ours.
        for _ in 0..8 {
            let Some(name) = schema["$ref"].as_str().and_then(|target| target.strip_prefix("#/$defs/")) else { break };
            schema = &self.schema["$defs"][name];
        }
        schema
    }

    fn node(&mut self, node: &Node, site: &Site<'_>, schema: &'a Value) -> Node {
        let schema = self.resolve(schema);
        if choices_of(schema).is_some() {
            let mut choice = Choice::default();
            self.flatten(schema, &mut choice);
            return self.choice(node, site, &choice);
        }
        if !fits(node, schema) {
            return self.wrong_type(node, site, &[schema]);
        }
        match &node.data {
            Data::Map(entries) => self.map(node, entries, site, schema),
            Data::List(items) => {
                let item =
                    |item: &Node| self.node(item, &Site { name: site.name, mark: first_line(item) }, &schema["items"]);
                Node { data: Data::List(items.iter().map(item).collect()), ..node.clone() }
            }
            Data::Number(_) => self.number(node, schema),
            Data::Text(text) => self.word(node, text, &words(schema), schema["title"].as_str()),
            _ => node.clone(),
        }
    }

    fn map(&mut self, node: &Node, entries: &[Entry], site: &Site<'_>, schema: &'a Value) -> Node {
        let known = &schema["properties"];
        let extra = &schema["additionalProperties"];
        let names: Vec<String> = known.as_object().into_iter().flatten().map(|(name, _)| name.clone()).collect();
        let mut swept = Node::new(node.span, Data::Null);
        let mut kept: Vec<Entry> = Vec::with_capacity(entries.len());
        for entry in entries {
            let mut key = entry.key.as_str();
            let mut value_schema = &known[key];
            if value_schema.is_null() {
                value_schema = extra;
                if extra == &Value::Bool(false) {
                    let absent: Vec<String> = names.iter().filter(|name| node.entry(name).is_none()).cloned().collect();
                    self.unknown_key(entry, site, &absent, &names);
                    let Some(meant) = nearest(key, &absent).and_then(|meant| names.iter().find(|name| *name == meant))
                    else {
                        continue;
                    };
                    (key, value_schema) = (meant, &known[meant]);
                }
            }
            if entry.value.data == Data::Null && !self.takes_null(value_schema) {
                continue;
            }
            let value = self.node(&entry.value, &Site { name: key, mark: entry.mark() }, value_schema);
            kept.push(Entry { key: key.to_owned(), key_span: entry.key_span, value });
        }
        for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            if !kept.iter().any(|entry| entry.key == name) {
                swept.sound = false;
                self.missing_key(name, site, &known[name]);
            }
        }
        swept.data = Data::Map(kept);
        swept
    }

    fn takes_null(&self, schema: &'a Value) -> bool {
        let schema = self.resolve(schema);
        let mut choice = Choice::default();
        self.flatten(schema, &mut choice);
        choice.leaves.iter().any(|leaf| fits(&Node::new(Span::default(), Data::Null), leaf))
    }

    fn unknown_key(&mut self, entry: &Entry, site: &Site<'_>, absent: &[String], all: &[String]) {
        let message = format!("there is no key `{}` in {}", entry.key, quoted(site.name));
        let choices = if absent.is_empty() { all } else { absent };
        self.find(Finding::error(entry.key_span, "unknown-key", message).choices(&entry.key, choices));
    }

    fn missing_key(&mut self, name: &str, site: &Site<'_>, schema: &Value) {
        let finding = Finding::error(site.mark, "missing-key", format!("{} needs the key `{name}`", quoted(site.name)));
        let about = schema["description"].as_str().and_then(|about| about.lines().next());
        self.find(match about {
            Some(about) => finding.help(format!("`{name}`: {about}")),
            None => finding,
        });
    }

    fn wrong_type(&mut self, node: &Node, site: &Site<'_>, leaves: &[&Value]) -> Node {
        let mut wanted: Vec<&str> = leaves.iter().flat_map(|leaf| types(leaf)).filter(|kind| *kind != "null").collect();
        wanted.dedup();
        let wanted: Vec<&str> = wanted.into_iter().map(words_for).collect();
        let message = format!("{} takes {}, and this is {}", quoted(site.name), wanted.join(" or "), node.kind());
        let finding = Finding::error(site.mark, "wrong-type", message);
        let scalar = matches!(node.data, Data::Number(_) | Data::Bool(_));
        self.find(match node.text() {
            _ if scalar && wanted.contains(&"text") => finding.help("put quotes around it"),
            Some(text) if wanted.contains(&"a list") => finding.help(format!("write `[{text}]`")),
            _ => finding,
        });
        Node { sound: false, ..node.clone() }
    }

    fn number(&mut self, node: &Node, schema: &Value) -> Node {
        let Data::Number(number) = &node.data else { return node.clone() };
        let value = number.as_f64().unwrap_or_default();
        let bound = |key: &str| schema[key].as_f64();
        let message = match (bound("minimum"), bound("exclusiveMinimum"), bound("maximum"), bound("exclusiveMaximum")) {
            (Some(least), ..) if value < least => format!("{number} is too small: the least is {least}"),
            (_, Some(least), ..) if value <= least => format!("{number} is too small: it must be more than {least}"),
            (_, _, Some(most), _) if value > most => format!("{number} is too large: the most is {most}"),
            (_, _, _, Some(most)) if value >= most => format!("{number} is too large: it must be less than {most}"),
            _ => return node.clone(),
        };
        self.find(Finding::error(node.span, "out-of-range", message));
        Node { sound: false, ..node.clone() }
    }

    /// A text of which only some are allowed; none given means all.
    fn word(&mut self, node: &Node, text: &str, allowed: &[&str], title: Option<&str>) -> Node {
        if allowed.is_empty() || allowed.contains(&text) {
            return node.clone();
        }
        self.unknown_word(node.span, text, allowed, title);
        Node { sound: false, ..node.clone() }
    }

    fn unknown_word(&mut self, span: Span, text: &str, allowed: &[&str], title: Option<&str>) {
        let message = match title {
            Some(title) => format!("there is no {title} `{text}`"),
            None => format!("`{text}` is none of the choices here"),
        };
        let code = if title.is_some() { "unknown-kind" } else { "unknown-choice" };
        self.find(Finding::error(span, code, message).choices(text, allowed));
    }
}

/// The texts that a schema allows; empty for all.
fn words(schema: &Value) -> Vec<&str> {
    let constant = schema["const"].as_str();
    schema["enum"].as_array().into_iter().flatten().filter_map(Value::as_str).chain(constant).collect()
}

/// The JSON types that a schema takes; empty for all.
fn types(schema: &Value) -> Vec<&str> {
    match &schema["type"] {
        Value::String(one) => vec![one],
        Value::Array(several) => several.iter().filter_map(Value::as_str).collect(),
        _ if !words(schema).is_empty() => vec!["string"],
        _ => Vec::new(),
    }
}

fn fits(node: &Node, schema: &Value) -> bool {
    let types = types(schema);
    types.is_empty()
        || types.iter().any(|kind| match &node.data {
            Data::Null => *kind == "null",
            Data::Bool(_) => *kind == "boolean",
            Data::Number(number) => *kind == "number" || *kind == "integer" && !number.is_f64(),
            Data::Text(_) | Data::Reference(_) => *kind == "string",
            Data::List(_) => *kind == "array",
            Data::Map(_) => *kind == "object",
        })
}

fn words_for(kind: &str) -> &str {
    match kind {
        "boolean" => "true or false",
        "number" => "a number",
        "integer" => "a whole number",
        "string" => "text",
        "array" => "a list",
        "object" => "a map",
        other => other,
    }
}

fn quoted(name: &str) -> String {
    if name.contains(' ') { name.to_owned() } else { format!("`{name}`") }
}

/// What to point at for an item that has no key: a collection over many lines would hide everything else.
fn first_line(node: &Node) -> Span {
    match node.entries().first() {
        Some(entry) => entry.key_span,
        None => node.span,
    }
}
