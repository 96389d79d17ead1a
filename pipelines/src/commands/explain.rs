//! `millstream explain`.

use std::fmt::Write;
use std::process::ExitCode;

use millstream_engine::{Fault, Result};
use millstream_operators::models::Explanation;
use millstream_operators::registry::{EXPLANATION, Registry, Version};
use millstream_pipelines::plan::Pipeline;
use millstream_pipelines::registry;
use serde::Serialize;

use super::{Place, failed, show};
use crate::Form;

/// How many of the importances are shown to people.
const SHOWN: usize = 40;

/// Arguments of `explain`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    place: Place,
    /// The model, where the definition has several.
    model: Option<String>,
    /// The beginning of the version's id, or `model@alias`; by default the newest.
    #[arg(long, value_name = "VERSION", conflicts_with = "model")]
    version: Option<String>,
    /// For people or for machines.
    #[arg(long, value_enum, default_value_t = Form::Text)]
    format: Form,
}

#[derive(Serialize)]
struct Explained {
    model: String,
    version: String,
    /// How many examples it had learned.
    revision: u64,
    explanation: Explanation,
}

pub(crate) fn run(arguments: &Arguments) -> ExitCode {
    let (pipeline, state) = match arguments.place.load() {
        Ok(loaded) => loaded,
        Err(code) => return code,
    };
    match registry::open(&pipeline, &state).and_then(|registry| explain(&registry, &pipeline, arguments)) {
        Ok(explained) => {
            show(&explained, arguments.format, Explained::text);
            ExitCode::SUCCESS
        }
        Err(fault) => failed(&pipeline, &fault),
    }
}

fn explain(registry: &Registry, pipeline: &Pipeline, arguments: &Arguments) -> Result<Explained> {
    let version = match &arguments.version {
        Some(prefix) => registry.show(prefix)?,
        None => newest(registry, pipeline, arguments.model.as_deref())?,
    };
    let (model, id) = (version.metadata.model.clone(), version.id.clone());
    let files = registry.artefacts(&version)?;
    let Some((_, content)) = files.into_iter().find(|(name, _)| name == EXPLANATION) else {
        let message = format!("version {id} of {model} is of an earlier program and does not explain itself");
        return Err(Fault::definition(message));
    };
    let unreadable = |error| Fault::world(format!("{EXPLANATION} of version {id} is damaged")).because(error);
    let explanation = serde_json::from_slice(&content).map_err(unreadable)?;
    Ok(Explained { model, version: version.id, revision: version.metadata.revision, explanation })
}

/// The newest sound version of the model that is meant.
fn newest(registry: &Registry, pipeline: &Pipeline, model: Option<&str>) -> Result<Version> {
    let names: Vec<&str> = pipeline.models.iter().map(|model| model.name.as_str()).collect();
    let listed = || names.join(", ");
    let model = match (model, names.as_slice()) {
        (Some(model), _) if names.contains(&model) => model,
        (Some(model), _) => {
            return Err(Fault::definition(format!("there is no model {model}; there are {}", listed())));
        }
        (None, [only]) => only,
        (None, _) => return Err(Fault::definition(format!("there are several models: say which of {}", listed()))),
    };
    registry.newest(model)?.ok_or_else(|| {
        Fault::definition(format!(
            "{model} has no promoted version yet: `promote: {{every_examples: 10000}}` in its definition says when \
             there is one, and `millstream replay --save FOLDER` writes the files of any revision"
        ))
    })
}

impl Explained {
    fn text(&self) -> String {
        let mut text = format!("{} revision {}, version {}\n", self.model, self.revision, self.version);
        let Explanation { importances, lines } = &self.explanation;
        if !importances.is_empty() {
            let shown = &importances[..importances.len().min(SHOWN)];
            let width = shown.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
            let most = shown[0].1.abs();
            text.push_str("\nimportance\n");
            for (name, importance) in shown {
                let bar = if most > 0.0 { (30.0 * importance.abs() / most).round() as usize } else { 0 };
                // Writing to a string cannot fail, here and below.
                let _ = writeln!(text, "  {name:width$}  {importance:>12.6}  {}", "#".repeat(bar));
            }
            if importances.len() > SHOWN {
                let _ = writeln!(text, "  and {} more", importances.len() - SHOWN);
            }
        }
        text.push_str("\nmodel\n");
        for line in lines {
            let _ = writeln!(text, "  {line}");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn importances_are_a_table_before_the_model() {
        let explanation = Explanation {
            importances: vec![("amount".to_owned(), 2.0), ("country=3".to_owned(), 0.5)],
            lines: vec!["bias +0.1".to_owned()],
        };
        let explained = Explained { model: "late".to_owned(), version: "1f".to_owned(), revision: 7, explanation };
        let text = explained.text();
        assert_eq!(
            text,
            "late revision 7, version 1f\n\nimportance\n  amount         2.000000  ##############################\n  \
             country=3      0.500000  ########\n\nmodel\n  bias +0.1\n"
        );
    }
}
