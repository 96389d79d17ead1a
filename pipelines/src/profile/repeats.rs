//! Which rows come again, and what tells rows apart.

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Schema};
use arrow::row::{RowConverter, SortField};
use millstream_engine::Result;
use millstream_engine::state::hash;
use millstream_operators::sketch::Distinct;

/// So many pairs of columns are tried as keys.
const PAIRS_MAX: usize = 64;

/// Counts equal rows, and rows that are equal in one or two columns, by the hashes of a sample of what they are equal in: of a hash that is
/// kept at all, every repetition is counted.
pub(super) struct Repeats {
    names: Vec<String>,
    converters: Vec<RowConverter>,
    whole: Distinct,
    /// Columns that may be a key together.
    keys: Vec<(Vec<usize>, Distinct)>,
}

impl Repeats {
    pub(super) fn new(schema: &Schema) -> Self {
        let fields = schema.fields();
        let converter = |kind: &DataType| RowConverter::new(vec![SortField::new(kind.clone())]);
        let converters =
            fields.iter().map(|field| converter(field.data_type()).expect("every column type has a row format"));
        // Measurements are no keys.
        let is_key = |at: &usize| !matches!(fields[*at].data_type(), DataType::Float64 | DataType::Boolean);
        let parts: Vec<usize> = (0..fields.len()).filter(is_key).collect();
        let one = parts.iter().map(|at| vec![*at]);
        let two = parts.iter().enumerate().flat_map(|(place, a)| parts[place + 1..].iter().map(|b| vec![*a, *b]));
        Self {
            names: fields.iter().map(|field| field.name().clone()).collect(),
            converters: converters.collect(),
            whole: Distinct::default(),
            keys: one.chain(two.take(PAIRS_MAX)).map(|key| (key, Distinct::default())).collect(),
        }
    }

    pub(super) fn add(&mut self, rows: &RecordBatch) -> Result<()> {
        let mut hashes = Vec::with_capacity(self.names.len());
        for (converter, column) in self.converters.iter().zip(rows.columns()) {
            let values = converter.convert_columns(std::slice::from_ref(column))?;
            hashes.push(values.iter().map(|value| hash(value.data())).collect::<Vec<u64>>());
        }
        let mut key = Vec::new();
        let mut add = |of: &mut Distinct, columns: &mut dyn Iterator<Item = usize>, row: usize| {
            key.clear();
            columns
                .for_each(|at| key.extend_from_slice(&hashes[at].get(row).copied().unwrap_or_default().to_le_bytes()));
            of.add(hash(&key));
        };
        for row in 0..rows.num_rows() {
            add(&mut self.whole, &mut (0..rows.num_columns()), row);
            for (columns, of) in &mut self.keys {
                add(of, &mut columns.iter().copied(), row);
            }
        }
        Ok(())
    }

    /// The columns that tell all rows apart but those that repeat, and the share of those.
    pub(super) fn found(&self) -> (Vec<String>, f64) {
        let Some(each) = self.whole.times_each() else { return (Vec::new(), 0.0) };
        let more = |of: &Distinct| of.times_each().unwrap_or(f64::MAX) - 1.0;
        // What is estimated is uncertain by some repetitions among a thousand.
        let most = 2.0 * (each - 1.0) + if self.whole.is_exact() { 0.0 } else { 0.003 };
        let key = self.keys.iter().find(|(_, of)| more(of) <= most);
        let names = key.map(|(key, _)| key.iter().map(|at| self.names[*at].clone()).collect());
        (names.unwrap_or_default(), 1.0 - 1.0 / each)
    }
}
