//! Models and the requests that they answer.

use millstream_connectors::sources::PlannedSource;
use millstream_engine::batch::{is_changing, schema_of};
use millstream_engine::catalogue::{Problem, StepInput, column};
use millstream_engine::operator::Choosing;
use millstream_operators::inference::policies::PlannedChoice;
use millstream_operators::registry::{Gate, PromotionRule};
use serde_json::{Value, json};

use super::doubt::Doubt;
use super::policies::{Around, Beside};
use super::sources::{Columns, Tried};
use super::streams::{Graph, plan_node, takes_no_changes};
use super::{Checker, Known, config, section_of};
use crate::definition::{Data, Entry, Node, Span};
use crate::fingerprint;
use crate::plan::{self, Begins, Input};
use crate::report::Finding;
use crate::shape;

/// The keys of a model that the trainer knows nothing of.
const OF_PIPELINES: [&str; 4] = ["input", "promote", "gates", "from"];

/// Whether a model learns.
fn learns(model: &Node) -> bool {
    model.get("learns").is_none_or(|learns| learns.data != Data::Bool(false))
}

impl Checker<'_> {
    pub(super) fn models(&mut self, root: &Node, graph: &mut Graph) -> Vec<plan::Model> {
        let mut models = Vec::new();
        let mut outputs = Vec::new();
        for entry in section_of(root, "models") {
            let input = graph.input(entry);
            if input.is_none() {
                self.unknown_input(entry.value.entry("input"), graph);
            }
            let input = input.unwrap_or_else(Graph::unknown);
            let planned = self.model(entry, &input, graph);
            let mut known = Known { doubt: Doubt::of_all(), ..input.clone() };
            let gates = self.gates(entry);
            let begins = self.begins(entry);
            if let Some((node, config, promote)) = planned {
                known =
                    Known { schema: node.step.schema.clone(), output: Input::Node(graph.nodes.len()), ..input.clone() };
                let (name, enters) = (entry.key.clone(), input.head.unwrap_or_default());
                let (node_at, learns) = (graph.nodes.len(), learns(&entry.value));
                models.push(plan::Model { name, node: node_at, config, begins, learns, promote, gates, enters });
                graph.nodes.push(node);
            }
            outputs.push((entry.key.clone(), known));
        }
        // Only now: a model cannot be another's input.
        graph.known.extend(outputs);
        models
    }

    fn model(
        &mut self,
        entry: &Entry,
        input: &Known,
        graph: &Graph,
    ) -> Option<(plan::Node, Value, Option<PromotionRule>)> {
        if !entry.value.is_sound() {
            self.model_columns(entry, input);
            return None;
        }
        let mut config = config(entry, &self.secrets);
        let promote = self.promotion(entry, config.get("promote"));
        let own = config.as_object_mut()?;
        own.retain(|key, _| !OF_PIPELINES.contains(&key.as_str()));
        let streams = graph.known.iter().map(|(name, known)| (name.clone(), known.schema.clone())).collect();
        match (self.catalogue.model.plan)(&config, &StepInput { schema: &input.schema, streams: &streams }) {
            Ok(step) if !step.power.takes_changes() && is_changing(&input.schema) => {
                self.own_problems(entry, &input.doubt, vec![takes_no_changes("a model").under("input")]);
                None
            }
            Ok(step) => {
                // When versions are promoted does not change what is learned. What it begins with counts by its content.
                let own = fingerprint::of_keys("model", &entry.value, &OF_PIPELINES);
                let node = plan_node((entry.key.clone(), &entry.key), ("model", own), step, input, graph);
                Some((node, config, promote))
            }
            Err(problems) => {
                self.own_problems(entry, &input.doubt, problems);
                None
            }
        }
    }

    /// What a model begins with.
    fn begins(&mut self, entry: &Entry) -> Option<Begins> {
        let refuse = |key: &str, code, message: &str, help: &str| vec![Problem::new(key, code, message).help(help)];
        let begins: Option<Begins> = self.read(entry.value.get("from"));
        let learns = learns(&entry.value);
        let problems = match &begins {
            Some(Begins { version: None, file: None, .. }) => {
                refuse("from", "missing-key", "`from` names neither a `version` nor a `file`", "name one of them")
            }
            Some(Begins { version: Some(_), file: Some(_), .. }) => {
                refuse("from", "two-origins", "`from` names a `version` and a `file`", "name one of them")
            }
            Some(Begins { registry: Some(_), version: None, .. }) => {
                refuse("from.registry", "no-version", "a `file` is in no registry", "leave `registry` out")
            }
            None if !learns && entry.value.get("from").is_none() => {
                let help = "say what it has learned: `from: {version: NAME@champion}`";
                refuse("learns", "knows-nothing", "a model that never learns knows nothing", help)
            }
            _ if !learns && entry.value.get("promote").is_some() => refuse(
                "promote",
                "learns-nothing",
                "a model that never learns has no new revisions",
                "leave `promote` out",
            ),
            _ => Vec::new(),
        };
        let is_sound = problems.is_empty();
        self.problems(entry, problems);
        if let Some(registry) = entry.value.get("from").and_then(|from| from.entry("registry")) {
            self.kept_at(registry, "versions", false);
            self.registry_at(&registry.value);
        }
        begins.filter(|_| is_sound)
    }

    /// What must hold of a model.
    fn gates(&mut self, entry: &Entry) -> Vec<Gate> {
        let mut gates = Vec::new();
        for (at, sql) in entry.value.get("gates").map_or(&[][..], Node::items).iter().enumerate() {
            let Some(sql) = sql.text() else { continue };
            match Gate::plan(sql, &format!("gates.{at}")) {
                Ok(gate) => gates.push(gate),
                Err(problems) => self.problems(entry, problems),
            }
        }
        gates
    }

    fn promotion(&mut self, entry: &Entry, config: Option<&Value>) -> Option<PromotionRule> {
        match PromotionRule::plan(config?) {
            Ok(rule) => Some(rule),
            Err(problems) => {
                self.problems(entry, problems.into_iter().map(|problem| problem.under("promote")).collect());
                None
            }
        }
    }

    /// Where a model cannot be planned because of its form, at least the columns that it names are looked up.
    fn model_columns(&mut self, entry: &Entry, input: &Known) {
        let names = entry.value.get("features").map_or(&[][..], Node::items);
        for node in names.iter().chain(entry.value.get("label")) {
            if let Some(name) = node.text().filter(|name| !input.doubt.covers(name))
                && let Err(problem) = column(&input.schema, "", name)
            {
                self.problem(&Entry { key: String::new(), key_span: node.span, value: node.clone() }, problem);
            }
        }
    }

    pub(super) fn requests(
        &mut self,
        root: &Node,
        graph: &Graph,
        sources: &[Tried],
        models: &[plan::Model],
    ) -> Vec<plan::Request> {
        let names: Vec<&str> = section_of(root, "sources").iter().map(|entry| entry.key.as_str()).collect();
        let entries = section_of(root, "requests");
        entries.iter().filter_map(|entry| self.request(root, entry, graph, &names, sources, models)).collect()
    }

    fn request(
        &mut self,
        root: &Node,
        entry: &Entry,
        graph: &Graph,
        names: &[&str],
        sources: &[Tried],
        models: &[plan::Model],
    ) -> Option<plan::Request> {
        let enters = self.choose(entry, "enters", "source", names);
        let model_names: Vec<&str> = section_of(root, "models").iter().map(|entry| entry.key.as_str()).collect();
        let model = self.choose(entry, "model", "model", &model_names);
        if let (Some(enters), Some(model), Some(at)) = (enters, model, entry.value.entry("enters")) {
            self.downstream(at.value.span, enters, model_names[model], graph, names);
        }
        let own = enters.zip(model.map(|model| model_names[model]));
        let policy = self.policy(entry, Around { root, graph, sources: names, own });
        let shape: shape::Request = self.read(Some(&entry.value))?;
        self.request_topics(entry, &shape);
        let source = self.questions(root, entry, &shape, enters?, sources)?;
        let Beside { others, choose } = policy?;
        let index = |name: &String| models.iter().position(|planned| planned.name == *name);
        let answering = std::iter::once(&shape.model).chain(&others).map(index).collect::<Option<_>>()?;
        let choosing = match choose {
            Some(PlannedChoice::Learned(router)) => Some(Choosing::Learned(models[index(&router)?].node)),
            Some(PlannedChoice::Measured(choose)) => Some(Choosing::Measured(choose)),
            None => None,
        };
        Some(plan::Request {
            name: entry.key.clone(),
            source,
            enters: enters?,
            models: answering,
            choose: choosing,
            answers: shape.answers.topic,
            partitions: shape.answers.partitions,
            others: shape.others.map(|others| (others.topic, others.partitions)),
            headers: shape.headers,
            reply_to: shape.reply_to,
            on_request: shape.on_request,
        })
    }

    /// The index of the name that stands under `key`.
    pub(super) fn choose(&mut self, entry: &Entry, key: &str, what: &str, names: &[&str]) -> Option<usize> {
        let at = entry.value.entry(key)?;
        let name = at.value.text()?;
        let found = names.iter().position(|other| *other == name);
        if found.is_none() {
            let message = format!("there is no {what} `{name}`");
            let code = if what == "model" { "unknown-model" } else { "unknown-source" };
            self.find(Finding::error(at.value.span, code, message).choices(name, names));
        }
        found
    }

    /// A question takes the way of the source that it enters, so that way must lead to the model. `at` says otherwise.
    pub(super) fn downstream(&mut self, at: Span, enters: usize, model: &str, graph: &Graph, names: &[&str]) {
        let Some(head) = graph.known.get(model).and_then(|known| known.head) else { return };
        if head != enters {
            let message = format!("what enters `{}` does not reach the model `{model}`", names[enters]);
            let help = format!("the model learns from what enters `{}`; questions must enter there", names[head]);
            self.find(Finding::error(at, "model-not-downstream", message).help(help));
        }
    }

    fn request_topics(&mut self, entry: &Entry, shape: &shape::Request) {
        let Some(answers) = entry.value.get("answers").and_then(|answers| answers.entry("topic")) else { return };
        if shape.topic == shape.answers.topic {
            let message = format!("questions and answers share the topic `{}`", shape.topic);
            let finding = Finding::error(answers.value.span, "same-topic", message);
            self.find(finding.help("every answer would be taken for a question; use another topic"));
            return;
        }
        self.topic_name(answers);
        if let (Some(others), Some(at)) = (&shape.others, entry.value.get("others").and_then(|of| of.entry("topic"))) {
            if [&shape.topic, &shape.answers.topic].contains(&&others.topic) {
                let message = format!("the answers that are not given share the topic `{}`", others.topic);
                self.find(Finding::error(at.value.span, "same-topic", message).help("use another topic"));
                return;
            }
            self.topic_name(at);
            self.topic(&others.topic, others.partitions, at.value.span);
        }
        let own = [Some(&shape.topic), Some(&shape.answers.topic), shape.others.as_ref().map(|others| &others.topic)];
        for at in entry.value.get("reply_to").map_or(&[][..], Node::items) {
            let Some(name) = at.text() else { continue };
            if own.into_iter().flatten().any(|own| own == name) {
                let message = format!("`{name}` is the requests' or their answers' topic already");
                self.find(Finding::error(at.span, "same-topic", message).help("name topics that only get replies"));
                continue;
            }
            self.topic_name(&Entry { key: String::new(), key_span: at.span, value: at.clone() });
            self.topic(name, 1, at.span);
        }
        self.topic(&shape.answers.topic, shape.answers.partitions, answers.value.span);
        if let Some(topic) = entry.value.entry("topic") {
            self.topic(&shape.topic, shape.partitions, topic.value.span);
        }
    }

    /// Plans a topic of questions: read like the records of the source that it enters.
    fn questions(
        &mut self,
        root: &Node,
        entry: &Entry,
        shape: &shape::Request,
        enters: usize,
        sources: &[Tried],
    ) -> Option<plan::Source> {
        let (_, Columns { schema: columns, doubt }) = sources.get(enters)?;
        let source = self.planned_topic(entry, &shape.topic, shape.partitions)?;
        let format = section_of(root, "sources").get(enters).and_then(|entry| entry.value.entry("format").cloned());
        let format =
            self.planned_format_or_json(format.as_ref(), &Columns { schema: columns.clone(), doubt: doubt.clone() });
        let entered = sources[enters].0.as_ref()?;
        Some(plan::Source {
            name: entry.key.clone(),
            source,
            columns: columns.clone(),
            schema: schema_of(columns),
            format: Some(format?),
            written_format: None,
            required: Vec::new(),
            event_time: entered.event_time,
            lateness_ms: entered.lateness_ms,
            corrections_ms: entered.corrections_ms,
            ahead_ms: entered.ahead_ms,
            idle_ms: entered.idle_ms,
            configuration: fingerprint::of_topic(&shape.topic, shape.partitions),
        })
    }

    fn planned_topic(&mut self, entry: &Entry, topic: &str, partitions: u32) -> Option<PlannedSource> {
        let kind = self.catalogue.sources.iter().find(|kind| kind.name == "topic")?;
        match (kind.plan)(&json!({"name": topic, "partitions": partitions, "headers": true})) {
            Ok(source) => Some(source),
            Err(mut problems) => {
                // The topic's name stands under another key here.
                for problem in &mut problems {
                    problem.path = vec!["topic".to_owned()];
                }
                self.problems(entry, problems);
                None
            }
        }
    }
}
