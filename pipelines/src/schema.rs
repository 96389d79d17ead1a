//! The JSON Schema of a whole definition file, composed from the shape and from all kinds.
//!
//! Editors complete and document by it; `check` finds by it whatever is wrong with a definition's form.

use schemars::{Schema, schema_for};
use serde_json::{Map, Value, json};

use crate::catalogue::Catalogue;
use crate::shape;

/// The schema of definition files.
pub fn compose(catalogue: &Catalogue) -> Value {
    let mut root = schema_for!(shape::Definition).to_value();
    let mut defs = match root["$defs"].take() {
        Value::Object(defs) => defs,
        _ => Map::new(),
    };
    for (def, title, what) in [
        ("any_source", "source", "source"),
        ("any_format", "format", "format"),
        ("any_step", "cleansing step", "step"),
        ("any_policy", "policy", "policy"),
        ("any_sink", "sink", "sink"),
    ] {
        let kinds = kinds(catalogue, what, &mut defs);
        defs.insert(def.to_owned(), one_of(title, kinds));
    }
    let mut broker = embed("broker", (catalogue.broker.schema)(), &mut defs);
    broker["title"] = json!("broker");
    defs.insert("any_broker".to_owned(), broker);
    let model = model(catalogue, &mut defs);
    defs.insert("any_model".to_owned(), model);
    root["$defs"] = Value::Object(defs);
    root["title"] = json!("Millstream definition");
    root["properties"]["millstream"]["const"] = json!(1);
    root
}

/// For each kind of `what`: its name, its description and the schema of its configuration.
fn kinds(catalogue: &Catalogue, what: &str, defs: &mut Map<String, Value>) -> Vec<(&'static str, &'static str, Value)> {
    let entries = catalogue.entries().into_iter().filter(|entry| entry.what == what);
    entries
        .map(|entry| (entry.name, entry.about, embed(&format!("{what}.{}", entry.name), (entry.schema)(), defs)))
        .collect()
}

/// A component is its kind with a configuration, or just its kind where the configuration may be empty.
fn one_of(title: &str, kinds: Vec<(&'static str, &'static str, Value)>) -> Value {
    let bare: Vec<&str> =
        kinds.iter().filter(|(_, _, schema)| may_be_empty(schema)).map(|(name, _, _)| *name).collect();
    let mut choices: Vec<Value> = kinds
        .into_iter()
        .map(|(name, about, schema)| {
            json!({
                "type": "object", "description": about, "properties": {name: schema}, "required": [name],
                "additionalProperties": false,
            })
        })
        .collect();
    if !bare.is_empty() {
        choices.push(json!({"type": "string", "enum": bare}));
    }
    json!({"title": title, "oneOf": choices})
}

fn may_be_empty(schema: &Value) -> bool {
    schema["type"] == "object" && schema["required"].as_array().is_none_or(Vec::is_empty)
}

/// A model's configuration: what the pipeline knows of it and what the trainer knows of it.
fn model(catalogue: &Catalogue, defs: &mut Map<String, Value>) -> Value {
    let mut model = embed("model", schema_for!(shape::Model), defs);
    let mut training = embed("training", (catalogue.model.schema)(), defs);
    for key in ["properties", "required"] {
        match (&mut model[key], training[key].take()) {
            (Value::Object(all), Value::Object(more)) => all.extend(more),
            (Value::Array(all), Value::Array(more)) => all.extend(more),
            _ => {}
        }
    }
    model["additionalProperties"] = json!(false);
    model["properties"]["learner"]["title"] = json!("learner");
    model
}

/// A kind's schema as part of the whole: what it defines moves to the common definitions, under its own prefix.
fn embed(prefix: &str, schema: Schema, defs: &mut Map<String, Value>) -> Value {
    let mut schema = schema.to_value();
    rename(&mut schema, prefix);
    let Some(object) = schema.as_object_mut() else { return schema };
    object.remove("$schema");
    object.remove("title");
    if let Some(Value::Object(own)) = object.remove("$defs") {
        defs.extend(own.into_iter().map(|(name, def)| (format!("{prefix}.{name}"), def)));
    }
    schema
}

fn rename(schema: &mut Value, prefix: &str) {
    match schema {
        Value::Object(object) => {
            for (key, value) in object {
                match value {
                    Value::String(target) if key == "$ref" => {
                        if let Some(name) = target.strip_prefix("#/$defs/") {
                            *target = format!("#/$defs/{prefix}.{name}");
                        }
                    }
                    value => rename(value, prefix),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| rename(item, prefix)),
        _ => {}
    }
}
