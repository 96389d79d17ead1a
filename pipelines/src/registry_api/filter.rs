//! MLflow's filters: `name LIKE 'late%' AND tags.stage = 'live'`.

use std::collections::BTreeMap;

/// What a filter is held against.
pub(super) struct Facts<'a> {
    pub(super) name: &'a str,
    /// A version's number; none of a model.
    pub(super) number: Option<u64>,
    pub(super) tags: &'a BTreeMap<String, String>,
}

/// Conditions that must all hold.
pub(super) struct Filter(Vec<Condition>);

struct Condition {
    field: Field,
    operator: Operator,
    value: String,
}

enum Field {
    Name,
    Number,
    Tag(String),
    /// Something that nothing here has.
    Nothing,
}

#[derive(Clone, Copy, PartialEq)]
enum Operator {
    Equal,
    Unequal,
    Like,
    LikeAnyCase,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Filter {
    /// Reads a filter; an empty one lets everything pass.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let wrong = |why: &str| {
            format!(
                "the filter `{text}` cannot be read: {why}; write it as `name = 'late'` or `name LIKE 'l%' AND tags.stage = 'live'`"
            )
        };
        let mut tokens = tokens(text).map_err(|why| wrong(&why))?.into_iter().peekable();
        let mut conditions = Vec::new();
        while tokens.peek().is_some() {
            if !conditions.is_empty() {
                match tokens.next() {
                    Some(Token::Word(word)) if word.eq_ignore_ascii_case("and") => {}
                    _ => return Err(wrong("conditions are joined by AND")),
                }
            }
            let Some(Token::Word(name)) = tokens.next() else { return Err(wrong("a name is missing")) };
            let field = field(&name).ok_or_else(|| wrong(&format!("there is no `{name}`")))?;
            let operator = match tokens.next() {
                Some(Token::Operator(operator)) => operator,
                Some(Token::Word(word)) if word.eq_ignore_ascii_case("like") => Operator::Like,
                Some(Token::Word(word)) if word.eq_ignore_ascii_case("ilike") => Operator::LikeAnyCase,
                _ => {
                    return Err(wrong(
                        "an operator is missing: =, !=, LIKE, ILIKE, or for version_number <, <=, >, >=",
                    ));
                }
            };
            let value = match tokens.next() {
                Some(Token::Text(value)) => value,
                Some(Token::Word(word)) if word.parse::<u64>().is_ok() => word,
                _ => return Err(wrong("a value in quotes is missing")),
            };
            let is_number = matches!(field, Field::Number);
            let is_text = matches!(operator, Operator::Like | Operator::LikeAnyCase);
            let is_order = !is_text && !matches!(operator, Operator::Equal | Operator::Unequal);
            if is_number && (is_text || value.parse::<u64>().is_err()) || !is_number && is_order {
                return Err(wrong(&format!("`{name}` cannot be compared like that")));
            }
            conditions.push(Condition { field, operator, value });
        }
        Ok(Self(conditions))
    }

    /// Whether all conditions hold.
    pub(super) fn passes(&self, facts: &Facts<'_>) -> bool {
        self.0.iter().all(|condition| condition.holds(facts))
    }
}

impl Condition {
    fn holds(&self, facts: &Facts<'_>) -> bool {
        let text = match &self.field {
            Field::Name => facts.name,
            Field::Tag(key) => match facts.tags.get(key) {
                Some(value) => value,
                // MLflow's clients leave its prompts out by a tag that nothing here has.
                None => return self.operator == Operator::Unequal,
            },
            Field::Number => {
                // It was read as a number before.
                let (Some(number), Ok(value)) = (facts.number, self.value.parse::<u64>()) else { return false };
                return match self.operator {
                    Operator::Less => number < value,
                    Operator::LessOrEqual => number <= value,
                    Operator::Greater => number > value,
                    Operator::GreaterOrEqual => number >= value,
                    Operator::Unequal => number != value,
                    _ => number == value,
                };
            }
            Field::Nothing => return self.operator == Operator::Unequal,
        };
        match self.operator {
            Operator::Unequal => text != self.value,
            Operator::Like => is_like(text, &self.value),
            Operator::LikeAnyCase => is_like(&text.to_lowercase(), &self.value.to_lowercase()),
            _ => text == self.value,
        }
    }
}

fn field(name: &str) -> Option<Field> {
    let tag = ["tags.", "tag."].iter().find_map(|prefix| name.strip_prefix(prefix));
    match (name, tag) {
        (_, Some(key)) => Some(Field::Tag(key.to_owned())),
        ("name", _) => Some(Field::Name),
        ("version_number", _) => Some(Field::Number),
        ("run_id" | "source_path", _) => Some(Field::Nothing),
        _ => None,
    }
}

enum Token {
    Word(String),
    Text(String),
    Operator(Operator),
}

fn tokens(text: &str) -> Result<Vec<Token>, String> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let operators = [
            ("!=", Operator::Unequal),
            ("<=", Operator::LessOrEqual),
            (">=", Operator::GreaterOrEqual),
            ("=", Operator::Equal),
            ("<", Operator::Less),
            (">", Operator::Greater),
        ];
        let operator = operators.into_iter().find_map(|(sign, operator)| Some((rest.strip_prefix(sign)?, operator)));
        if let Some((after, operator)) = operator {
            tokens.push(Token::Operator(operator));
            rest = after.trim_start();
        } else if matches!(first, '\'' | '"') {
            let (value, after) = quoted(rest, first)?;
            tokens.push(Token::Text(value));
            rest = after.trim_start();
        } else {
            let end = rest.find(|c: char| !(c.is_alphanumeric() || "_.-".contains(c))).unwrap_or(rest.len());
            let (word, mut after) = rest.split_at(end);
            let mut word = word.to_owned();
            // A tag's name may stand in quotes: tags.`two words`.
            if let Some(quote) = after.chars().next().filter(|c| word.ends_with('.') && "`\"".contains(*c)) {
                let (name, end) = quoted(after, quote)?;
                word.push_str(&name);
                after = end;
            }
            if word.is_empty() {
                return Err(format!("`{first}` means nothing here"));
            }
            tokens.push(Token::Word(word));
            rest = after.trim_start();
        }
    }
    Ok(tokens)
}

/// What stands in quotes, and what comes after.
fn quoted(text: &str, quote: char) -> Result<(String, &str), String> {
    let inner = &text[quote.len_utf8()..];
    let (value, after) = inner.split_once(quote).ok_or("a quote is not closed")?;
    Ok((value.to_owned(), after))
}

/// SQL's pattern: `%` is any text, `_` any character. Takes a time of the two lengths' product at most.
fn is_like(text: &str, pattern: &str) -> bool {
    let (text, pattern): (Vec<char>, Vec<char>) = (text.chars().collect(), pattern.chars().collect());
    let (mut at, mut place) = (0, 0);
    // Where the last `%` stood, and what text it is tried with.
    let mut retry: Option<(usize, usize)> = None;
    while at < text.len() {
        match pattern.get(place) {
            Some('%') => {
                retry = Some((place + 1, at));
                place += 1;
            }
            Some(c) if *c == '_' || *c == text[at] => (at, place) = (at + 1, place + 1),
            _ => {
                let Some((after, from)) = retry else { return false };
                (place, at) = (after, from + 1);
                retry = Some((after, at));
            }
        }
    }
    pattern[place..].iter().all(|c| *c == '%')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passes(filter: &str, name: &str, number: Option<u64>) -> bool {
        let tags = BTreeMap::from([("stage".to_owned(), "live".to_owned()), ("two words".to_owned(), "x".to_owned())]);
        let filter = Filter::parse(filter).unwrap_or_else(|why| panic!("{why}"));
        filter.passes(&Facts { name, number, tags: &tags })
    }

    #[test]
    fn filters() {
        let cases = [
            ("", true),
            ("name = 'late'", true),
            ("name=\"late\"", true),
            ("name != 'late'", false),
            ("name LIKE 'l%'", true),
            ("name like '%t_'", true),
            ("name LIKE 'L%'", false),
            ("name ILIKE 'L%'", true),
            ("name LIKE 'late'", true),
            ("name LIKE ''", false),
            ("name LIKE '%%%e'", true),
            ("tags.stage = 'live' and name = 'late'", true),
            ("tag.`two words` = 'x'", true),
            ("tags.\"two words\" != 'x'", false),
            ("tags.missing != 'x'", true),
            ("tags.missing LIKE '%'", false),
            ("version_number > 2 AND version_number <= '3'", true),
            ("version_number = 4", false),
            ("run_id = 'abc'", false),
        ];
        for (filter, want) in cases {
            assert_eq!(passes(filter, "late", Some(3)), want, "{filter}");
        }
        assert!(!passes("version_number > 0", "late", None), "models have no number");
    }

    #[test]
    fn what_cannot_be_read_is_told() {
        for (filter, want) in [
            ("name", "an operator is missing"),
            ("name =", "a value in quotes is missing"),
            ("name = late", "a value in quotes is missing"),
            ("name = 'late", "a quote is not closed"),
            ("nme = 'late'", "there is no `nme`"),
            ("name = 'a' OR name = 'b'", "conditions are joined by AND"),
            ("name < 'a'", "`name` cannot be compared like that"),
            ("version_number LIKE '1'", "cannot be compared like that"),
            ("version_number = 'x'", "cannot be compared like that"),
            ("(name = 'a')", "`(` means nothing here"),
            ("name = 'a' and", "a name is missing"),
        ] {
            let why = Filter::parse(filter).map(drop).expect_err(filter);
            assert!(why.contains(want), "{why}");
        }
    }

    #[test]
    fn patterns_take_no_time() {
        let text = "a".repeat(20_000);
        assert!(!is_like(&text, &("%a".repeat(50) + "b")));
        assert!(is_like(&text, &"%a".repeat(50)));
    }
}
