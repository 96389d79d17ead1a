//! From a path to a pipeline.

use std::path::Path;

use crate::catalogue::Catalogue;
use crate::check::check;
use crate::definition::{Definition, Secrets, Span};
use crate::plan::Pipeline;
use crate::report::{Finding, Report};

/// Reads, checks and plans the definition at `path` for a run, with its secrets looked up.
/// The report holds every problem; with the pipeline come at most warnings.
pub fn load(path: &Path, catalogue: &Catalogue) -> Result<(Pipeline, Report), Report> {
    let definition = read(path)?;
    // Without the rest of its problems, a definition would have to be mended twice.
    let (secrets, missing) = match Secrets::resolve(&definition.root, &definition.folder()) {
        Ok(secrets) => (secrets, Vec::new()),
        Err(findings) => (Secrets::default(), findings),
    };
    let complete = missing.is_empty();
    let (pipeline, mut findings) = check(&definition, catalogue, secrets);
    findings.extend(missing);
    let report = Report::new(&definition, findings);
    match pipeline {
        Some(pipeline) if complete => Ok((pipeline, report)),
        _ => Err(report),
    }
}

/// Reads, checks and plans the definition at `path` without looking at anything but the file itself.
/// The pipeline is there if nothing is wrong; it must not run, since its secrets are not looked up.
pub fn inspect(path: &Path, catalogue: &Catalogue) -> Result<(Option<Pipeline>, Report), Report> {
    let definition = read(path)?;
    let (pipeline, findings) = check(&definition, catalogue, Secrets::default());
    Ok((pipeline, Report::new(&definition, findings)))
}

fn read(path: &Path) -> Result<Definition, Report> {
    Definition::read(path).map_err(|error| {
        let file = path.to_string_lossy();
        let nothing = Definition::parse(&file, "");
        let message = format!("`{file}` cannot be read: {error}");
        Report::new(
            &nothing,
            vec![Finding::error(Span { line: 1, column: 1, ..Span::default() }, "unreadable", message)],
        )
    })
}
