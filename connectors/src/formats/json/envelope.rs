//! Change records of a database, as Debezium writes them: the row before, the row after, and what was done.

use super::cursor::{Cursor, Reason};

/// Where in a record the row is, and what was done with it.
pub(super) struct Change<'a> {
    /// The row's object: after the change, or before it where it was deleted.
    pub(super) row: &'a str,
    /// `c`reated, `u`pdated, `d`eleted, or `r`ead in a snapshot.
    pub(super) operation: &'a str,
}

/// Finds the parts of a change record, with or without its schema beside it.
pub(super) fn change(record: &str) -> Result<Change<'_>, Reason> {
    let [payload, before, after, operation] = parts(record, ["payload", "before", "after", "op"])?;
    let [before, after, operation] = match payload {
        Some(payload) => parts(payload, ["before", "after", "op"])?,
        None => [before, after, operation],
    };
    let operation = operation.map(|text| text.trim_matches('"')).ok_or("a change record has an `op`")?;
    let (row, name) = if operation == "d" { (before, "before") } else { (after, "after") };
    match row.filter(|row| row.starts_with('{')) {
        Some(row) => Ok(Change { row, operation }),
        None => Err(format!("the change `{operation}` has no `{name}`")),
    }
}

/// The values of some keys of an object, as they stand there.
fn parts<'a, const N: usize>(object: &'a str, names: [&str; N]) -> Result<[Option<&'a str>; N], Reason> {
    let mut found = [None; N];
    let cursor = &mut Cursor::new(object);
    cursor.space();
    cursor.expect(b'{')?;
    cursor.space();
    if cursor.eat(b'}') {
        cursor.end()?;
        return Ok(found);
    }
    loop {
        let key = cursor.text()?;
        cursor.space();
        cursor.expect(b':')?;
        cursor.space();
        let value = cursor.skip()?;
        if let Some(place) = names.iter().position(|name| key.plain() == Some(name)) {
            found[place] = Some(value);
        }
        cursor.space();
        if !cursor.eat(b',') {
            cursor.expect(b'}')?;
            cursor.end()?;
            return Ok(found);
        }
        cursor.space();
    }
}
