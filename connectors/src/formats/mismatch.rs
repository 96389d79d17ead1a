//! Why a value cannot be in its column, in words that can be read back: whoever looks at many dead letters sees from them
//! which column has become what.
//!
//! ```text
//! column `amount`: expected a float, found the text "12,5"
//! ```

use arrow::datatypes::DataType;

use super::timestamp;

/// What was found where there is no value.
pub(crate) const NOTHING: &str = "nothing";

/// A column and what it held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mismatch<'a> {
    /// The column.
    pub column: &'a str,
    /// The type that it is declared as: `float`.
    pub declared: &'a str,
    /// What was found instead: `text`, `number`, `truth value`, `object`, `array`, `nothing`, or a type's name.
    pub found: &'a str,
}

/// The words for what a column expects, and its declared type.
const EXPECTED: [(&str, &str); 7] = [
    ("a float", "float"),
    ("a finite float", "float"),
    ("an int", "int"),
    ("an int of 64 bits", "int"),
    ("a text", "text"),
    ("true or false", "bool"),
    (timestamp::EXPECTED, "timestamp"),
];

/// The words for what was found, without the value.
const FOUND: [&str; 5] = ["text", "number", "truth value", "object", "array"];

impl<'a> Mismatch<'a> {
    /// What a reason says; `None` if it says something else.
    pub fn parse(reason: &'a str) -> Option<Self> {
        let rest = reason.strip_prefix("column `")?;
        let (column, rest) = rest.split_once("`: expected ")?;
        let (expected, found) = rest.split_once(", found ")?;
        let (_, declared) = EXPECTED.iter().find(|(words, _)| *words == expected)?;
        let found = match found.strip_prefix("the ") {
            Some(found) => match FOUND.iter().find(|kind| found.starts_with(**kind)) {
                Some(kind) => kind,
                None => found.split_once(' ').map_or(found, |(kind, _)| kind),
            },
            None => Some(found).filter(|found| *found == NOTHING)?,
        };
        Some(Self { column, declared, found })
    }
}

/// What a column of this type expects, in words.
pub(crate) fn expected(kind: &DataType) -> String {
    match kind {
        DataType::Float64 => "a float".to_owned(),
        DataType::Int64 => "an int".to_owned(),
        DataType::Utf8 => "a text".to_owned(),
        DataType::Boolean => "true or false".to_owned(),
        DataType::Timestamp(..) => timestamp::EXPECTED.to_owned(),
        other => other.to_string(),
    }
}

/// A value of this type, shown as `value`, in words.
pub(crate) fn found(kind: &DataType, value: &str) -> String {
    match kind {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => format!("the text {value:?}"),
        DataType::Boolean => format!("the truth value {value}"),
        kind if kind.is_numeric() => format!("the number {value}"),
        DataType::Dictionary(_, values) => found(values, value),
        DataType::List(_) | DataType::LargeList(_) | DataType::FixedSizeList(..) => format!("the array {value}"),
        DataType::Struct(_) | DataType::Map(..) => format!("the object {value}"),
        DataType::Timestamp(..) => format!("the timestamp {value}"),
        _ => format!("the value {value}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_read_back() {
        for (reason, expected) in [
            ("column `a`: expected a float, found the text \"x, found y\"", Some(("a", "float", "text"))),
            ("column `a`: expected an int of 64 bits, found the number 3.0", Some(("a", "int", "number"))),
            ("column `a b`: expected true or false, found the truth value true", Some(("a b", "bool", "truth value"))),
            ("column `a`: expected a text, found nothing", Some(("a", "text", "nothing"))),
            ("column `a`: expected a float, found the timestamp 2026", Some(("a", "float", "timestamp"))),
            ("column `a`: not JSON at byte 3: expected a value", None),
            ("expected 4 values, found 3", None),
            ("column `a`: expected something, found the text", None),
        ] {
            let found = Mismatch::parse(reason).map(|found| (found.column, found.declared, found.found));
            assert_eq!(found, expected, "{reason}");
        }
        let kinds = [DataType::Float64, DataType::Int64, DataType::Utf8, DataType::Boolean];
        let declared = kinds.map(|kind| {
            let reason = format!("column `c`: expected {}, found {NOTHING}", expected(&kind));
            Mismatch::parse(&reason).expect("it says so").declared.to_owned()
        });
        assert_eq!(declared, ["float", "int", "text", "bool"]);
    }
}
