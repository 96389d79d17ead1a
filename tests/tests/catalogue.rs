//! The contract that every kind in the catalogue keeps, whatever it is.

use std::path::Path;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use millstream_engine::catalogue::{Planned, Problem, StepInput};
use millstream_operators::cleansing::{example_schema, example_streams};
use millstream_operators::inference::policies;
use millstream_operators::{models, training};
use millstream_pipelines::catalogue::{Catalogue, Entry};
use millstream_pipelines::definition::{Definition, Secrets};
use serde_json::{Value, json};

/// Only tells whether all is well.
type Plan = Box<dyn Fn(&Value) -> Planned<()>>;

/// A kind with its plan.
struct Contract {
    entry: Entry,
    /// The folder that its file is in.
    folder: &'static str,
    plan: Plan,
}

/// Columns that every format can write.
fn columns() -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new("value", DataType::Utf8, true), Field::new("count", DataType::Int64, true)]))
}

fn plan_step(
    plan: fn(&Value, &StepInput<'_>) -> Planned<millstream_engine::operator::Step>,
    config: &Value,
) -> Planned<()> {
    plan(config, &StepInput { schema: &example_schema(), streams: &example_streams() }).map(drop)
}

fn contracts() -> Vec<Contract> {
    let catalogue = Catalogue::shipped();
    let (sources, formats) = (catalogue.sources, catalogue.formats);
    let (steps, sinks) = (catalogue.steps, catalogue.sinks);
    let contract = |entry: Entry| {
        let name = entry.name;
        let (folder, plan): (_, Plan) = match entry.what {
            "source" => {
                let plan = sources.iter().find(|kind| kind.name == name).expect("listed").plan;
                ("connectors/src/sources", Box::new(move |config| plan(config).map(drop)))
            }
            "format" => {
                let plan = formats.iter().find(|kind| kind.name == name).expect("listed").plan;
                // `raw` is for a single column.
                let columns =
                    if name == "raw" { Arc::new(columns().project(&[0]).expect("it is there")) } else { columns() };
                ("connectors/src/formats", Box::new(move |config| plan(config, &columns).map(drop)))
            }
            "step" => {
                let plan = steps.iter().find(|kind| kind.name == name).expect("listed").plan;
                ("operators/src/cleansing", Box::new(move |config| plan_step(plan, config)))
            }
            "learner" => {
                let plan = models::KINDS.iter().find(|kind| kind.name == name).expect("listed").plan;
                ("operators/src/models", Box::new(move |config| plan(config).map(drop)))
            }
            "policy" => {
                let plan = policies::KINDS.iter().find(|kind| kind.name == name).expect("listed").plan;
                ("operators/src/inference/policies", Box::new(move |config| plan(config).map(drop)))
            }
            "sink" => {
                let plan = sinks.iter().find(|kind| kind.name == name).expect("listed").plan;
                ("connectors/src/sinks", Box::new(move |config| plan(config, &example_schema()).map(drop)))
            }
            other => panic!("there are {other}s now: add them here"),
        };
        Contract { entry, folder, plan }
    };
    catalogue.entries().into_iter().map(contract).collect()
}

/// An example as a definition file's reader sees it.
fn yaml(text: &str) -> Value {
    let read = Definition::parse("example.yaml", text);
    assert!(read.root.is_sound(), "no YAML: {text}");
    read.root.to_value(&Secrets::default())
}

fn shown(problems: &[Problem]) -> String {
    let line = |problem: &Problem| format!("{:?} {}: {}", problem.path, problem.code, problem.message);
    problems.iter().map(line).collect::<Vec<_>>().join("; ")
}

#[test]
fn all_kinds_are_here() {
    let count = |what: &str| contracts().iter().filter(|contract| contract.entry.what == what).count();
    let counts = ["source", "format", "step", "learner", "policy", "sink"].map(count);
    assert!(counts.iter().all(|count| *count >= 2), "{counts:?}");
    let mut names: Vec<_> = contracts().iter().map(|contract| (contract.entry.what, contract.entry.name)).collect();
    names.sort_unstable();
    let all = names.len();
    names.dedup();
    assert_eq!(names.len(), all, "a name is taken twice");
}

#[test]
fn examples_are_good() {
    for Contract { entry, plan, .. } in contracts() {
        if let Err(problems) = plan(&yaml(entry.example)) {
            panic!("the example of {}: {}", entry.name, shown(&problems));
        }
    }
}

#[test]
fn unknown_keys_are_refused_by_name() {
    for Contract { entry, plan, .. } in contracts() {
        let mut config = yaml(entry.example);
        config["no_such_key"] = json!(1);
        let problems = plan(&config).err().unwrap_or_else(|| panic!("{} takes any key", entry.name));
        let named = problems
            .iter()
            .any(|problem| problem.message.contains("no_such_key") || problem.path.contains(&"no_such_key".to_owned()));
        assert!(named, "{}: {}", entry.name, shown(&problems));
    }
}

#[test]
fn whatever_is_configured_is_a_problem_and_no_panic() {
    let values = [
        json!(null),
        json!(true),
        json!(-1),
        json!(1e300),
        json!("x"),
        json!([]),
        json!([[]]),
        json!({}),
        json!({"a": {"b": null}}),
    ];
    for Contract { entry, plan, .. } in contracts() {
        let example = yaml(entry.example);
        for value in &values {
            // Whether it is taken is the kind's own matter (`{}` often is).
            drop(plan(value));
            for key in example.as_object().into_iter().flat_map(|object| object.keys()) {
                let mut config = example.clone();
                config[key] = value.clone();
                if let Err(problems) = plan(&config) {
                    assert!(!problems.is_empty(), "{} fails without a problem: {config}", entry.name);
                    assert!(problems.iter().all(|problem| !problem.message.is_empty()), "{}: {config}", entry.name);
                }
            }
        }
    }
}

#[test]
fn names_are_snake_case_and_their_files() {
    for Contract { entry, folder, .. } in contracts() {
        let name = entry.name;
        let words = |part: &str| {
            !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
        };
        assert!(name.split('_').all(words), "{name} is not snake_case");
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(folder);
        let exists = folder.join(format!("{name}.rs")).exists() || folder.join(name).join("mod.rs").exists();
        assert!(exists, "{name} is not in {}", folder.display());
    }
}

#[test]
fn descriptions_start_with_a_sentence() {
    for Contract { entry, .. } in contracts() {
        let (name, first) = (entry.name, entry.summary());
        assert!(first.ends_with(['.', ':']) && first.len() > 10, "{name}: {first:?}");
        assert!(first.starts_with(|c: char| c.is_uppercase() || c == '`'), "{name}: {first:?}");
        let second = entry.about.lines().nth(1);
        assert!(second.is_none_or(str::is_empty), "{name}: a blank line separates the details");
    }
}

#[test]
fn every_setting_is_described() {
    let training = training::KIND.schema;
    let schemas = contracts().into_iter().map(|contract| (contract.entry.name, contract.entry.schema));
    for (name, schema) in schemas.chain([("model", training)]) {
        let schema = serde_json::to_value(schema()).expect("a schema is JSON");
        let mut bare = Vec::new();
        look_for_bare(&schema, &mut bare);
        assert!(bare.is_empty(), "{name}: {bare:?} have no description");
    }
}

/// Properties without a description. That of an enum's variant is on the object whose only property it is.
fn look_for_bare(schema: &Value, bare: &mut Vec<String>) {
    if let Some(properties) = schema["properties"].as_object() {
        let variant = properties.len() == 1 && schema["required"].as_array().is_some_and(|names| names.len() == 1);
        let described = |schema: &Value| schema["description"].as_str().is_some_and(|text| !text.trim().is_empty());
        let undescribed =
            properties.iter().filter(|(_, property)| !(described(property) || variant && described(schema)));
        bare.extend(undescribed.map(|(name, _)| name.clone()));
    }
    match schema {
        Value::Object(parts) => parts.values().for_each(|part| look_for_bare(part, bare)),
        Value::Array(parts) => parts.iter().for_each(|part| look_for_bare(part, bare)),
        _ => {}
    }
}
