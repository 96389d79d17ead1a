//! `clean_text`: text without the traces of its journey.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StringArray, StringBuilder};
use arrow::datatypes::SchemaRef;
use icu_normalizer::ComposingNormalizerBorrowed;
use millstream_engine::Result;
use millstream_engine::batch::{Lane, with_columns, with_fields};
use millstream_engine::catalogue::{Kind, Planned, Problems, StepInput, StepKind, configuration, schema_of};
use millstream_engine::operator::{Power, Rejects, Step, Transform};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use super::columns::{changeable, changes, is_text};
use super::mojibake::repair;

const NFC: ComposingNormalizerBorrowed<'static> = ComposingNormalizerBorrowed::new_nfc();

pub(super) static KIND: StepKind = Kind {
    name: "clean_text",
    about: "Text without stray blanks, control characters and wrong encodings.\n\n\
            In this order: `mojibake` is undone, control characters and invisible marks go, runs of white space \
            become one blank, blanks at both ends go, letters get their `case`, characters their composed form \
            (Unicode NFC), whole values their replacement, and an empty text becomes null.",
    schema: schema_of::<Config>,
    example: "columns: [sensor, room]\ncase: lower\nmojibake: true\nreplacements: {kitchn: kitchen, \"n/a\": null}\n",
    plan,
};

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[expect(clippy::struct_excessive_bools, reason = "each is a setting of its own")]
struct Config {
    /// Columns of text.
    columns: Vec<String>,
    /// Whether white space at both ends goes.
    #[serde(default = "yes")]
    trim: bool,
    /// Whether runs of white space, line ends included, become one blank.
    #[serde(default = "yes")]
    collapse: bool,
    /// Whether control characters (but white space), byte order marks, soft hyphens and zero-width spaces go.
    #[serde(default = "yes")]
    control: bool,
    /// Whether characters get their composed form: `e` with a following accent becomes `é`.
    #[serde(default = "yes")]
    compose: bool,
    /// Whether text whose UTF-8 was read as Windows-1252 or Latin-1 (`Ã©`) is read again (`é`), where all of it can be.
    #[serde(default)]
    mojibake: bool,
    /// The case that letters get. Default: the one that they have.
    case: Option<Case>,
    /// From whole values, as they are after all of this, to other ones or null.
    #[serde(default)]
    replacements: BTreeMap<String, Option<String>>,
    /// Whether a text that is empty in the end becomes null.
    #[serde(default = "yes")]
    empty_is_null: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Case {
    /// `new york`
    Lower,
    /// `NEW YORK`
    Upper,
    /// `New York`
    Title,
}

fn yes() -> bool {
    true
}

fn plan(config: &Value, input: &StepInput<'_>) -> Planned<Step> {
    let config: Config = configuration(config)?;
    let mut problems = Problems::default();
    let columns = changeable(input.schema, &mut problems, "columns", &config.columns);
    for &at in &columns {
        problems.take(is_text(input.schema, "columns", at));
    }
    problems.finish()?;
    let fields = columns.iter().map(|&at| input.schema.field(at).clone().with_nullable(true));
    let schema = with_fields(input.schema, fields);
    let operator = CleanText { columns, config, schema: schema.clone() };
    Ok(Step { schema, others: Vec::new(), power: Power::transform(operator) })
}

struct CleanText {
    columns: Vec<usize>,
    config: Config,
    schema: SchemaRef,
}

impl Transform for CleanText {
    fn apply(&self, _: Lane, rows: &RecordBatch, rejects: &mut Rejects) -> Result<RecordBatch> {
        let mut cleaned = Vec::with_capacity(self.columns.len());
        for &at in &self.columns {
            let column = self.column(rows.column(at));
            rejects.repaired(changes(rows.column(at), &column)?);
            cleaned.push((self.schema.field(at).name().as_str(), column));
        }
        with_columns(&self.schema, rows, cleaned)
    }
}

/// Room for the stages of one value.
#[derive(Default)]
struct Scratch {
    bytes: Vec<u8>,
    meant: String,
    kept: String,
    composed: String,
}

impl CleanText {
    fn column(&self, column: &ArrayRef) -> ArrayRef {
        let cells: &StringArray = column.as_string();
        if cells.iter().flatten().all(|text| self.is_clean(text)) {
            return column.clone();
        }
        let mut scratch = Scratch::default();
        let mut cleaned = StringBuilder::with_capacity(cells.len(), cells.value_data().len());
        for cell in cells {
            match cell {
                Some(text) if !self.is_clean(text) => cleaned.append_option(self.clean(text, &mut scratch)),
                cell => cleaned.append_option(cell),
            }
        }
        Arc::new(cleaned.finish())
    }

    /// Whether a text is plainly one that stays as it is: one look at each byte.
    fn is_clean(&self, text: &str) -> bool {
        let config = &self.config;
        let mut before = if config.trim { b' ' } else { b'x' };
        for byte in text.bytes() {
            let other_case = match config.case {
                None => false,
                Some(Case::Lower) => byte.is_ascii_uppercase(),
                Some(Case::Upper) => byte.is_ascii_lowercase(),
                Some(Case::Title) => true,
            };
            if !(b' '..=b'~').contains(&byte) || byte == b' ' && before == b' ' || other_case {
                return false;
            }
            before = byte;
        }
        !text.is_empty() && (before != b' ' || !config.trim) && !config.replacements.contains_key(text)
    }

    fn clean<'a>(&'a self, text: &'a str, scratch: &'a mut Scratch) -> Option<&'a str> {
        let config = &self.config;
        let mut text = text;
        if config.mojibake && repair(text, &mut scratch.bytes, &mut scratch.meant) {
            text = &scratch.meant;
        }
        self.keep(text, &mut scratch.kept);
        text = if config.trim { scratch.kept.trim() } else { &scratch.kept };
        if config.compose && !text.is_ascii() && !NFC.is_normalized(text) {
            scratch.composed.clear();
            // Writing to a string cannot fail.
            if NFC.normalize_to(text, &mut scratch.composed).is_ok() {
                text = &scratch.composed;
            }
        }
        if let Some(replacement) = config.replacements.get(text) {
            return replacement.as_deref();
        }
        Some(text).filter(|text| !(text.is_empty() && config.empty_is_null))
    }

    /// The characters that stay, in their case.
    fn keep(&self, text: &str, out: &mut String) {
        let config = &self.config;
        out.clear();
        let (mut blank, mut in_word) = (false, false);
        for c in text.chars() {
            if config.control && is_invisible(c) {
                continue;
            }
            if config.collapse && c.is_whitespace() {
                (blank, in_word) = (true, false);
                continue;
            }
            if std::mem::take(&mut blank) {
                out.push(' ');
            }
            match config.case {
                None => out.push(c),
                Some(Case::Lower) => push_lower(c, out),
                Some(Case::Title) if in_word => push_lower(c, out),
                Some(Case::Upper | Case::Title) => push_upper(c, out),
            }
            in_word = c.is_alphanumeric() || in_word && (matches!(c, '\'' | '’') || is_mark(c));
        }
        if blank {
            out.push(' ');
        }
    }
}

fn push_lower(c: char, out: &mut String) {
    if c.is_ascii() { out.push(c.to_ascii_lowercase()) } else { out.extend(c.to_lowercase()) }
}

fn push_upper(c: char, out: &mut String) {
    if c.is_ascii() { out.push(c.to_ascii_uppercase()) } else { out.extend(c.to_uppercase()) }
}

/// Whether a character shows nothing and separates nothing.
fn is_invisible(c: char) -> bool {
    c.is_control() && !c.is_whitespace() || matches!(c, '\u{ad}' | '\u{200b}' | '\u{2060}' | '\u{feff}')
}

/// Whether a character is an accent for the one before.
fn is_mark(c: char) -> bool {
    ('\u{300}'..='\u{36f}').contains(&c)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, AsArray, StringArray};
    use serde_json::{Value, json};

    use super::super::harness::{Bench, check, problems, table};

    /// Cleans these texts, which tables cannot write.
    fn cleaned(settings: &Value, texts: &[&str]) -> Vec<Option<String>> {
        let mut config = json!({"columns": ["room"]});
        for (key, value) in settings.as_object().expect("settings") {
            config[key] = value.clone();
        }
        let mut bench = Bench::new(&super::KIND, &config);
        let rows = table(&super::super::example_schema(), &format!("t{}", "\n1".repeat(texts.len())));
        let column: ArrayRef = Arc::new(StringArray::from(texts.to_vec()));
        let rows = super::with_columns(&rows.schema(), &rows, vec![("room", column)]).expect("a column of text");
        let output = bench.learn(&rows);
        let column = output.column_by_name("room").expect("it is there");
        column.as_string::<i32>().iter().map(|text| text.map(str::to_owned)).collect()
    }

    fn some(texts: &[&str]) -> Vec<Option<String>> {
        texts.iter().map(|text| Some((*text).to_owned())).collect()
    }

    #[test]
    fn blanks_and_invisible_characters_go() {
        let texts = ["  a \t b\n", "a\u{0}b\u{feff}", "\u{a0}x\u{200b}\u{3000}y ", "clean", "so\u{ad}ft", "a b"];
        assert_eq!(cleaned(&json!({}), &texts), some(&["a b", "ab", "x y", "clean", "soft", "a b"]));
        let none = json!({"trim": false, "collapse": false, "control": false});
        assert_eq!(cleaned(&none, &texts[..2]), some(&texts[..2]));
        assert_eq!(cleaned(&json!({"trim": false}), &["  a  b "]), some(&[" a b "]));
        assert_eq!(cleaned(&json!({"collapse": false}), &[" a\t b\u{1} "]), some(&["a\t b"]));
    }

    #[test]
    fn letters_get_their_case() {
        let texts = ["NEW york", "o'NEIL-jones", "ÉCOLE", "straße 5b"];
        let expected = [
            ("lower", ["new york", "o'neil-jones", "école", "straße 5b"]),
            ("upper", ["NEW YORK", "O'NEIL-JONES", "ÉCOLE", "STRASSE 5B"]),
            ("title", ["New York", "O'neil-Jones", "École", "Straße 5b"]),
        ];
        for (case, expected) in expected {
            assert_eq!(cleaned(&json!({"case": case}), &texts), some(&expected));
        }
    }

    #[test]
    fn characters_are_composed() {
        assert_eq!(cleaned(&json!({}), &["Cafe\u{301}", "\u{212b}"]), some(&["Café", "Å"]));
        assert_eq!(cleaned(&json!({"compose": false}), &["Cafe\u{301}"]), some(&["Cafe\u{301}"]));
        assert_eq!(cleaned(&json!({"case": "title"}), &["e\u{301}LAN I\u{307}x"]), some(&["Élan İx"]));
        assert_eq!(cleaned(&json!({"case": "lower"}), &["İ"]), some(&["i\u{307}"]), "which has no composed form");
    }

    #[test]
    fn wrong_encodings_are_undone_before_all_else() {
        let texts = ["SÃ£o  Paulo", "Ã\u{a0} la carte", "Müller"];
        assert_eq!(cleaned(&json!({"mojibake": true}), &texts), some(&["São Paulo", "à la carte", "Müller"]));
        assert_eq!(cleaned(&json!({}), &texts[..1]), some(&["SÃ£o Paulo"]));
    }

    #[test]
    fn whole_values_are_replaced() {
        let config = json!({"columns": ["sensor", "room"], "case": "lower",
            "replacements": {"kitchn": "kitchen", "n/a": null}});
        check(
            &super::KIND,
            &config,
            "t sensor   room
             1 ␣KITCHN  N/A
             2 kitchn   kitchn␣2
             3 ␣␣       null",
            "t sensor   room
             1 kitchen  null
             2 kitchen  kitchn␣2
             3 null     null",
        );
        let config = json!({"columns": ["sensor"], "empty_is_null": false});
        check(&super::KIND, &config, "t sensor\n1 ␣\n2 ∅", "t sensor\n1 ∅\n2 ∅");
    }

    #[test]
    fn all_problems_are_found() {
        let config = json!({"columns": ["count", "rom", "_key"]});
        let expected = "columns.2 reserved-column; columns.1 unknown-column; columns wrong-type; columns wrong-type";
        assert_eq!(problems(&super::KIND, &config), expected);
        assert_eq!(problems(&super::KIND, &json!({"columns": ["room"], "case": "camel"})), "case bad-value");
    }
}
