//! A profile as people and programs read it.

use std::fmt::Write;

use arrow::array::timezone::Tz;
use arrow::temporal_conversions::as_datetime_with_timezone;
use serde::{Deserialize, Serialize};

use super::Column;
use super::texts::Looks;

/// The shares at which quantiles are given, ascending.
const SHARES: [f64; 5] = [0.01, 0.25, 0.5, 0.75, 0.99];
/// So many of the most frequent texts are given.
const TOP: usize = 8;

/// What a column holds.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Text.
    Text,
    /// Whole numbers.
    Int,
    /// Numbers.
    Float,
    /// True and false; as numbers 1 and 0.
    Bool,
    /// Instants; as numbers, milliseconds since 1970.
    Timestamp,
    /// Something that only its missing values are counted of.
    Other,
}

impl Kind {
    /// As definitions name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Int => "int",
            Self::Float => "float",
            Self::Bool => "bool",
            Self::Timestamp => "timestamp",
            Self::Other => "other",
        }
    }
}

/// What was found in a stream.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// All rows.
    pub rows: u64,
    /// Those that the sketches have seen.
    pub sampled: u64,
    /// By column, in their order.
    pub columns: Vec<ColumnReport>,
}

/// What was found in a column. Numbers are those of a text column that look like ones, too.
#[derive(Clone, Debug, Serialize)]
pub struct ColumnReport {
    /// Its name.
    pub name: String,
    /// What it holds.
    pub kind: Kind,
    /// The share of rows without a value.
    pub missing_share: f64,
    /// The least number.
    pub min: Option<f64>,
    /// The greatest number.
    pub max: Option<f64>,
    /// Their mean.
    pub mean: Option<f64>,
    /// Their sample deviation.
    pub deviation: Option<f64>,
    /// Quantiles, ascending.
    pub quantiles: Vec<Quantile>,
    /// How many different values the sample has.
    pub distinct: u64,
    /// Whether that is no estimate.
    pub distinct_is_exact: bool,
    /// How often a value is there in the sample, on average.
    pub times_each: Option<f64>,
    /// Numbers that may stand for a missing value.
    pub suspects: Vec<Suspect>,
    /// Of a column of texts.
    pub text: Option<TextReport>,
}

/// A number below which a share of all lies.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Quantile {
    /// The share.
    pub share: f64,
    /// The number.
    pub value: f64,
}

/// A value that may stand for a missing one.
#[derive(Clone, Debug, Serialize)]
pub struct Suspect {
    /// The number.
    pub value: f64,
    /// How often the sample has it.
    pub count: u64,
}

/// What was found in texts.
#[derive(Clone, Debug, Serialize)]
pub struct TextReport {
    /// The fewest characters.
    pub shortest: u64,
    /// The most characters.
    pub longest: u64,
    /// The most frequent ones in the sample, each with how often it was there at least.
    pub top: Vec<(String, u64)>,
    /// Whether these are all.
    pub top_is_all: bool,
    /// Two of them that differ in nothing but the case of letters and blanks around them.
    pub alike: Option<[String; 2]>,
    /// Words that stand for a missing value, as they are spelled.
    pub missing_words: Vec<(String, u64)>,
    /// What they might be instead.
    pub looks: Looks,
}

/// The first two of these texts that letters of one case would make the same. What is there only once may be anything.
fn alike(texts: &[(String, u64)]) -> Option<[String; 2]> {
    let often: Vec<(&str, String)> = texts
        .iter()
        .filter(|(_, count)| *count > 1)
        .map(|(text, _)| (text.trim(), text.trim().to_lowercase()))
        .collect();
    often.iter().enumerate().find_map(|(at, (text, lower))| {
        let (other, _) = often[at + 1..].iter().find(|(other, of_other)| other != text && of_other == lower)?;
        Some([(*text).to_owned(), (*other).to_owned()])
    })
}

impl ColumnReport {
    pub(super) fn of(column: &Column, rows: u64) -> Self {
        let is_text = column.kind == Kind::Text;
        let texts = &column.texts;
        let (numbers, sketched) =
            if is_text { (&texts.numbers, &texts.sketched) } else { (&column.numbers, &column.sketched) };
        let known = |value: f64| (numbers.count > 0).then_some(value);
        let quantiles = sketched.quantiles.quantiles(SHARES).unwrap_or_default();
        // A sketch may be off; what was seen is not.
        let within = |value: f64| value.max(numbers.min).min(numbers.max);
        let quantiles =
            SHARES.into_iter().zip(quantiles).map(|(share, value)| Quantile { share, value: within(value) });
        let all = texts.frequent.top(usize::MAX);
        let text = (is_text && texts.looks.texts > 0).then(|| TextReport {
            shortest: texts.shortest,
            longest: texts.longest,
            top_is_all: texts.frequent.is_exact() && all.len() <= TOP,
            alike: alike(&all),
            top: all.into_iter().take(TOP).collect(),
            missing_words: texts.words.iter().map(|(word, count)| (word.clone(), *count)).collect(),
            looks: texts.looks.clone(),
        });
        Self {
            name: column.name.clone(),
            kind: column.kind,
            missing_share: if rows > 0 { column.missing as f64 / rows as f64 } else { 0.0 },
            min: known(numbers.min),
            max: known(numbers.max),
            mean: known(numbers.mean),
            deviation: numbers.deviation(),
            quantiles: if numbers.count > 0 { quantiles.collect() } else { Vec::new() },
            distinct: column.different.estimate().round() as u64,
            distinct_is_exact: column.different.is_exact(),
            times_each: column.different.times_each(),
            suspects: sketched.suspects().into_iter().map(|(value, count)| Suspect { value, count }).collect(),
            text,
        }
    }

    /// The number below which this share lies, one of 0.01, 0.25, 0.5, 0.75 and 0.99.
    pub fn quantile(&self, share: f64) -> Option<f64> {
        self.quantiles.iter().find(|quantile| (quantile.share - share).abs() < 1e-9).map(|quantile| quantile.value)
    }

    /// A number of this column as people write it.
    fn shown(&self, value: Option<f64>) -> String {
        let Some(value) = value else { return String::new() };
        if self.kind == Kind::Timestamp {
            let instant = as_datetime_with_timezone::<arrow::datatypes::TimestampMillisecondType>(value as i64, utc());
            return instant.map_or_else(String::new, |instant| instant.format("%Y-%m-%dT%H:%M:%SZ").to_string());
        }
        number(value)
    }

    /// What there is to remark.
    fn remarks(&self) -> String {
        let mut remarks = Vec::new();
        for Suspect { value, count } in &self.suspects {
            remarks.push(format!("{} {count} times, far from the others", number(*value)));
        }
        let Some(text) = &self.text else { return remarks.join("; ") };
        let looks = &text.looks;
        let formats = looks.formats.iter().map(|(format, count)| (&**format, *count));
        let counts = [
            ("numbers", looks.numbers),
            ("with a decimal comma", looks.commas),
            ("timestamps", looks.timestamps),
            ("true or false", looks.truths),
            ("blank", looks.blank),
            ("padded", looks.padded),
        ];
        for (what, count) in counts.into_iter().chain(formats).filter(|(_, count)| *count > 0) {
            remarks.push(format!("{} % {what}", percent(count as f64 / looks.texts as f64)));
        }
        for (word, count) in &text.missing_words {
            remarks.push(format!("`{word}` {count} times"));
        }
        if looks.numbers + looks.commas + looks.timestamps < looks.texts && looks.formats.is_empty() {
            let top = text.top.iter().filter(|(_, count)| *count > 1).take(4);
            let top: Vec<String> = top.map(|(text, count)| format!("{text:?} {count}")).collect();
            let more = if text.top_is_all && text.top.len() <= 4 { "" } else { ", …" };
            if !top.is_empty() {
                remarks.push(top.join(", ") + more);
            }
        }
        remarks.join("; ")
    }
}

fn utc() -> Tz {
    "+00:00".parse().expect("an offset of no hours")
}

fn percent(share: f64) -> String {
    match share * 100.0 {
        percent if percent > 0.0 && percent < 0.01 => "<0.01".to_owned(),
        percent if percent > 99.99 && percent < 100.0 => ">99.99".to_owned(),
        percent => number((percent * 100.0).round() / 100.0),
    }
}

/// A number with about six digits.
fn number(value: f64) -> String {
    if value == 0.0 || (value.fract() == 0.0 && value.abs() < 1e15) {
        return format!("{value:.0}");
    }
    let digits = (5.0 - value.abs().log10().floor()).clamp(0.0, 12.0) as usize;
    if value.abs() >= 1e15 || value.abs() < 1e-6 {
        return format!("{value:.4e}");
    }
    let text = format!("{value:.digits$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

impl Report {
    /// A table, a line for each column.
    pub fn table(&self) -> String {
        let names =
            ["column", "type", "missing %", "distinct", "min", "1 %", "median", "99 %", "max", "mean", "deviation", ""];
        let mut lines: Vec<Vec<String>> = vec![names.map(str::to_owned).to_vec()];
        for column in &self.columns {
            let is_time = column.kind == Kind::Timestamp;
            let about = if column.distinct_is_exact { "" } else { "~" };
            let mut cells = vec![
                column.name.clone(),
                column.kind.name().to_owned(),
                percent(column.missing_share),
                format!("{about}{}", column.distinct),
            ];
            let quantiles = [0.01, 0.5, 0.99].map(|share| column.quantile(share).filter(|_| !is_time));
            let [low, median, high] = quantiles;
            cells.extend([column.min, low, median, high, column.max].map(|value| column.shown(value)));
            let moments = [column.mean, column.deviation].map(|value| value.filter(|_| !is_time));
            cells.extend(moments.map(|value| column.shown(value)));
            cells.push(column.remarks());
            lines.push(cells);
        }
        let mut text = format!("{} rows", self.rows);
        if self.sampled < self.rows {
            let _ = write!(text, ", {} of them sampled for all but missing, range, mean and deviation", self.sampled);
        }
        text.push_str("\n\n");
        text.push_str(&aligned(&lines));
        text
    }
}

/// Columns of equal width: the first two and the last to the left, the others to the right.
fn aligned(lines: &[Vec<String>]) -> String {
    let places = lines.first().map_or(0, Vec::len);
    let width = |place: usize| lines.iter().map(|line| line[place].chars().count()).max().unwrap_or_default();
    let widths: Vec<usize> = (0..places).map(width).collect();
    let mut text = String::new();
    for line in lines {
        let mut shown = String::new();
        for (place, cell) in line.iter().enumerate() {
            // Writing to a string cannot fail.
            let _ = match place {
                0 | 1 => write!(shown, "{cell:<width$}  ", width = widths[place]),
                last if last + 1 == places => write!(shown, "{cell}"),
                _ => write!(shown, "{cell:>width$}  ", width = widths[place]),
            };
        }
        text.push_str(shown.trim_end());
        text.push('\n');
    }
    text
}
