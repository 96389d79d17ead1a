//! Columns that every record must have.

use std::sync::Arc;

use arrow::array::{Array, BooleanArray};
use arrow::compute::filter_record_batch;
use millstream_engine::Result;
use millstream_engine::raw::RawBatch;
use millstream_engine::source::{Decoded, Decoder, MakeDecoder};

use super::mismatch::{NOTHING, expected};

/// Rejects records in which one of these columns is missing; of a record with several rows, all go.
pub fn required(decoder: MakeDecoder, columns: Vec<usize>) -> MakeDecoder {
    if columns.is_empty() {
        return decoder;
    }
    Arc::new(move || Box::new(Required { decoder: decoder(), columns: columns.clone() }))
}

struct Required {
    decoder: Box<dyn Decoder>,
    columns: Vec<usize>,
}

impl Decoder for Required {
    fn decode(&mut self, raw: &RawBatch) -> Result<Decoded> {
        let decoded = self.decoder.decode(raw)?;
        if self.columns.iter().all(|column| decoded.rows.column(*column).null_count() == 0) {
            return Ok(decoded);
        }
        let Decoded { rows, record, mut rejects } = decoded;
        let is_missing = |column: &&usize, row: usize| rows.column(**column).is_null(row);
        let before = rejects.len();
        for (row, of) in record.iter().enumerate() {
            let is_told = rejects[before..].last().is_some_and(|(last, _)| last == of);
            if let Some(column) = self.columns.iter().find(|column| is_missing(column, row))
                && !is_told
            {
                let field = rows.schema_ref().field(*column);
                let reason =
                    format!("column `{}`: expected {}, found {NOTHING}", field.name(), expected(field.data_type()));
                rejects.push((*of, reason));
            }
        }
        let missing: Vec<u32> = rejects[before..].iter().map(|(record, _)| *record).collect();
        rejects.sort_by_key(|(record, _)| *record);
        let keep = |of: &u32| missing.binary_search(of).is_err();
        let mask: BooleanArray = record.iter().map(|of| Some(keep(of))).collect();
        let rows = filter_record_batch(&rows, &mask)?;
        Ok(Decoded { rows, record: record.into_iter().filter(keep).collect(), rejects })
    }

    fn name(&mut self, partition: u32, header: &[u8]) {
        self.decoder.name(partition, header);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::formats::tests::{columns, raw_batch, shown};

    #[test]
    fn records_without_a_required_column_are_rejected() {
        let columns = columns(&[("a", "int"), ("b", "text")]);
        let json = crate::formats::plan(&json!("json"), &columns).expect("a good configuration");
        let records: [&[u8]; 5] =
            [br#"{"a":1,"b":"x"}"#, br#"{"b":"y"}"#, b"no", br#"{"a":null,"b":null}"#, br#"{"a":5}"#];
        let raw = raw_batch(records.into_iter().map(Some));
        let decode = |required: Vec<usize>| {
            crate::formats::required(json.decoder.clone(), required)().decode(&raw).expect("bytes")
        };
        let found = decode(vec![0]);
        assert_eq!((shown(&found.rows), found.record), (vec!["1|x".to_owned(), "5|".to_owned()], vec![0, 4]));
        let missing = "column `a`: expected an int, found nothing".to_owned();
        assert_eq!(found.rejects[0], (1, missing.clone()));
        assert_eq!(found.rejects[2], (3, missing));
        assert_eq!(found.rejects.iter().map(|(at, _)| *at).collect::<Vec<_>>(), [1, 2, 3]);
        let both = decode(vec![0, 1]);
        assert_eq!((both.record, both.rejects[3].1.as_str()), (vec![0], "column `b`: expected a text, found nothing"));
        assert_eq!(decode(vec![]).record, [0, 1, 3, 4]);
    }
}
