//! What a sink writes to a file, a source reads from it, whatever the values, the file's type and the cut.

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use millstream_engine::source::{MakeDecoder, Position};
use proptest::prelude::*;
use serde_json::json;

use crate::formats::tests::{batch, row, seeded};
use crate::formats::{self, rows_decoder};
use crate::sinks;
use crate::sinks::tests::with_meta;
use crate::sources;
use crate::sources::tests::{read_all, world};

/// Writes `commits` to the file `written` and reads `read`, about `max_bytes` at a time.
fn round_trip(
    commits: &[RecordBatch],
    written: &str,
    read: &str,
    make: &MakeDecoder,
    max_bytes: usize,
) -> Vec<RecordBatch> {
    let folder = tempfile::tempdir().expect("a folder");
    let schema = with_meta(0, &commits[0]).schema();
    let sink = (sinks::file::KIND.plan)(&json!({"path": written}), &schema).expect("a good configuration");
    let mut sink = (sink.open)(&folder.path().to_owned()).expect("a new folder");
    for rows in commits {
        sink.committed(&with_meta(0, rows)).expect("disk");
    }
    let source = (sources::file::KIND.plan)(&json!({"path": read})).expect("a good configuration");
    let source = (source.open)(&world(folder.path(), 1 << 20)).expect("written");
    let batches = read_all(&*source, &[Position { partition: 0, offset: 0 }], max_bytes);
    let mut reading = make();
    let decode = |raw| {
        let decoded = reading.decode(raw).expect("as written");
        assert_eq!(decoded.rejects, []);
        decoded.rows
    };
    batches.iter().map(decode).collect()
}

proptest! {
    #![proptest_config(seeded(60))]

    #[test]
    fn what_a_sink_writes_a_source_reads(
        rows in proptest::collection::vec(row(), 1..20),
        cut in any::<prop::sample::Index>(),
        max_bytes in 1_usize..1000,
    ) {
        let rows = batch(&rows);
        let cut = cut.index(rows.num_rows());
        let commits = [rows.slice(0, cut), rows.slice(cut, rows.num_rows() - cut)];
        let bytes = |format| formats::plan(&json!(format), &rows.schema()).expect("good").decoder;
        for (written, read, decoder) in [
            ("a.jsonl", "a.jsonl", bytes("json")),
            ("a.csv", "a.csv", bytes("csv")),
            ("a.parquet", "a.parquet/*.parquet", rows_decoder(rows.schema())),
        ] {
            let back = round_trip(&commits, written, read, &decoder, max_bytes);
            prop_assert_eq!(&concat_batches(&rows.schema(), &back).expect("one schema"), &rows, "{}", written);
        }
    }
}
