//! All that was found wrong with a definition, for people and for machines.

use std::fmt::Write;

use miette::{GraphicalReportHandler, GraphicalTheme, LabeledSpan, MietteDiagnostic, NamedSource, Severity};
use serde_json::{Value, json};

use crate::definition::{Definition, Span};

/// How many choices a message lists at most.
const CHOICES_MAX: usize = 12;
/// How wide rendered messages are, in characters.
const WIDTH: usize = 110;

/// One thing that was found.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    /// Where.
    pub span: Span,
    /// Whether it keeps the pipeline from starting.
    pub is_error: bool,
    /// Stable, for searching.
    pub code: &'static str,
    /// What is wrong, in one line.
    pub message: String,
    /// How to mend it.
    pub help: Option<String>,
    /// What was most likely meant.
    pub suggestion: Option<String>,
}

impl Finding {
    /// Something that keeps the pipeline from starting.
    pub fn error(span: Span, code: &'static str, message: impl Into<String>) -> Self {
        Self { span, is_error: true, code, message: message.into(), help: None, suggestion: None }
    }

    /// Something that the user should know.
    pub fn warning(span: Span, code: &'static str, message: impl Into<String>) -> Self {
        Self { is_error: false, ..Self::error(span, code, message) }
    }

    /// Says how to mend it.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Suggests what was meant, or lists what there is.
    #[must_use]
    pub fn choices<S: AsRef<str>>(mut self, wanted: &str, choices: impl IntoIterator<Item = S>) -> Self {
        let choices: Vec<String> = choices.into_iter().map(|choice| choice.as_ref().to_owned()).collect();
        self.suggestion = nearest(wanted, &choices).map(str::to_owned);
        let mend = match &self.suggestion {
            Some(name) => Some(format!("did you mean `{name}`?")),
            None if choices.is_empty() => None,
            None if choices.len() == 1 => Some(format!("there is only `{}`", choices[0])),
            None => Some(format!("choose one of {}", listing(&choices))),
        };
        self.help = match (mend, self.help.take()) {
            (Some(mend), Some(help)) => Some(format!("{mend} {help}")),
            (mend, help) => mend.or(help),
        };
        self
    }

    fn diagnostic(&self) -> MietteDiagnostic {
        // An empty span cannot be seen.
        let len = (self.span.end - self.span.start).max(1);
        let diagnostic = MietteDiagnostic::new(self.message.clone())
            .with_code(self.code)
            .with_severity(if self.is_error { Severity::Error } else { Severity::Warning })
            .with_label(LabeledSpan::new_primary_with_span(None, (self.span.start, len)));
        match &self.help {
            Some(help) => diagnostic.with_help(help.clone()),
            None => diagnostic,
        }
    }

    fn to_json(&self) -> Value {
        json!({
            "severity": if self.is_error { "error" } else { "warning" },
            "code": self.code,
            "message": self.message,
            "help": self.help,
            "suggestion": self.suggestion,
            "line": self.span.line,
            "column": self.span.column,
            "start": self.span.start,
            "end": self.span.end,
        })
    }
}

/// The choice that is nearly `wanted`.
pub(crate) fn nearest<'a>(wanted: &str, choices: &'a [String]) -> Option<&'a str> {
    let wanted = wanted.to_lowercase();
    let distance = |choice: &str| strsim::damerau_levenshtein(&wanted, &choice.to_lowercase());
    // A third of the letters may be wrong; more is another word.
    let limit = (wanted.chars().count() / 3).max(1);
    let best = choices.iter().map(|choice| (distance(choice), choice)).min()?;
    (best.0 <= limit).then_some(best.1.as_str())
}

fn listing(choices: &[String]) -> String {
    let mut text = choices.iter().take(CHOICES_MAX).map(|choice| format!("`{choice}`")).collect::<Vec<_>>().join(", ");
    if choices.len() > CHOICES_MAX {
        let _ = write!(text, " and {} more", choices.len() - CHOICES_MAX);
    }
    text
}

/// All findings of one definition, in the order of the text.
#[derive(Clone, Debug)]
pub struct Report {
    file: String,
    text: String,
    findings: Vec<Finding>,
}

impl Report {
    /// The findings of `definition`.
    pub fn new(definition: &Definition, mut findings: Vec<Finding>) -> Self {
        findings.sort_by(|a, b| (a.span.start, a.code, &a.message).cmp(&(b.span.start, b.code, &b.message)));
        findings.dedup();
        Self { file: definition.file.clone(), text: definition.text.clone(), findings }
    }

    /// What was found.
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }

    /// Whether something keeps the pipeline from starting.
    pub fn has_errors(&self) -> bool {
        self.findings.iter().any(|finding| finding.is_error)
    }

    /// For people: a block for each finding with an excerpt of the text, and a closing count.
    pub fn render(&self, colour: bool) -> String {
        let theme = if colour { GraphicalTheme::unicode() } else { GraphicalTheme::unicode_nocolor() };
        let handler = GraphicalReportHandler::new_themed(theme).with_width(WIDTH).with_links(false);
        let mut out = String::new();
        for finding in &self.findings {
            let source = NamedSource::new(&self.file, self.text.clone());
            let report = miette::Report::new(finding.diagnostic()).with_source_code(source);
            handler.render_report(&mut out, report.as_ref()).expect("writing to a string does not fail");
            out.push('\n');
        }
        out.push_str(&self.summary());
        out.push('\n');
        out
    }

    /// For machines: one JSON object.
    pub fn to_json(&self) -> Value {
        json!({
            "file": self.file,
            "ok": !self.has_errors(),
            "findings": self.findings.iter().map(Finding::to_json).collect::<Vec<_>>(),
        })
    }

    fn summary(&self) -> String {
        let errors = self.findings.iter().filter(|finding| finding.is_error).count();
        let count = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
        match (errors, self.findings.len() - errors) {
            (0, 0) => format!("{}: no problems", self.file),
            (0, warnings) => format!("{}: {}", self.file, count(warnings, "warning")),
            (errors, 0) => format!("{}: {}", self.file, count(errors, "problem")),
            (errors, warnings) => {
                format!("{}: {}, {}", self.file, count(errors, "problem"), count(warnings, "warning"))
            }
        }
    }
}
