//! What a definition may name. The only file that knows where the kinds are listed.

use millstream_connectors::broker::config::BrokerConfig;
use millstream_connectors::formats::{self, FormatKind};
use millstream_connectors::sinks::{self, SinkKind};
use millstream_connectors::sources::{self, SourceKind};
use millstream_engine::catalogue::{Kind, Planned, StepInput, StepKind, schema_of};
use millstream_engine::operator::Step;
use millstream_operators::inference::policies::{self, PolicyKind};
use millstream_operators::training::{self, TrainingConfig};
use millstream_operators::{cleansing, models};
use schemars::Schema;
use serde_json::Value;

/// The kinds that there are, by what they are.
#[derive(Clone)]
pub struct Catalogue {
    /// Where records come from.
    pub sources: &'static [&'static SourceKind],
    /// Bytes into columns, and back.
    pub formats: &'static [&'static FormatKind],
    /// Cleansing steps.
    pub steps: &'static [&'static StepKind],
    /// Learners of a model.
    pub learners: Vec<Entry>,
    /// Whose answer a request gets.
    pub policies: &'static [&'static PolicyKind],
    /// Where rows go.
    pub sinks: &'static [&'static SinkKind],
    /// The configuration of a model, without its input.
    pub model: ModelKind,
    /// The configuration of the broker.
    pub broker: BrokerKind,
}

/// Plans models.
#[derive(Clone, Copy)]
pub struct ModelKind {
    /// Its schema.
    pub schema: fn() -> Schema,
    /// Checks and plans.
    pub plan: fn(&Value, &StepInput<'_>) -> Planned<Step>,
}

/// Plans brokers.
#[derive(Clone, Copy)]
pub struct BrokerKind {
    /// Its schema.
    pub schema: fn() -> Schema,
    /// Checks and reads.
    pub plan: fn(&Value) -> Planned<BrokerConfig>,
}

/// A kind's documentation.
#[derive(Clone, Copy)]
pub struct Entry {
    /// What it is, in a heading: `step`.
    pub what: &'static str,
    /// Its name.
    pub name: &'static str,
    /// One line, then details.
    pub about: &'static str,
    /// The configuration's schema.
    pub schema: fn() -> Schema,
    /// A valid configuration in YAML.
    pub example: &'static str,
}

impl Entry {
    fn of<P>(what: &'static str, kind: &Kind<P>) -> Self {
        Self { what, name: kind.name, about: kind.about, schema: kind.schema, example: kind.example }
    }

    /// The first line of its description.
    pub fn summary(&self) -> &'static str {
        self.about.lines().next().unwrap_or_default()
    }
}

impl Catalogue {
    /// What this program ships with.
    pub fn shipped() -> Self {
        Self {
            sources: sources::KINDS,
            formats: formats::KINDS,
            steps: cleansing::KINDS,
            learners: models::KINDS.iter().map(|kind| Entry::of("learner", kind)).collect(),
            policies: policies::KINDS,
            sinks: sinks::KINDS,
            model: ModelKind { schema: schema_of::<TrainingConfig>, plan: training::plan },
            broker: BrokerKind { schema: schema_of::<BrokerConfig>, plan: BrokerConfig::parse },
        }
    }

    /// All kinds, in the order in which data passes them.
    pub fn entries(&self) -> Vec<Entry> {
        let sources = self.sources.iter().map(|kind| Entry::of("source", kind));
        let formats = self.formats.iter().map(|kind| Entry::of("format", kind));
        let steps = self.steps.iter().map(|kind| Entry::of("step", kind));
        let sinks = self.sinks.iter().map(|kind| Entry::of("sink", kind));
        let policies = self.policies.iter().map(|kind| Entry::of("policy", kind));
        let learners = self.learners.iter().copied();
        sources.chain(formats).chain(steps).chain(learners).chain(policies).chain(sinks).collect()
    }
}
