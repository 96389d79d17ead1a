"""The sensor job as a batch job in Polars, on its streaming engine, which uses all cores."""

import polars as pl

from job import CHANNELS, HIGH, LIMIT, LOW, WARM_UP, WINDOW_MS, arguments, tell

SCHEMA = {"sensor": pl.String, "seq": pl.Int64, "at": pl.Int64} | {name: pl.Float64 for name in CHANNELS}


def records(path):
    """Its NDJSON reader stops at the first line that is not JSON, so lines are looked at before they are parsed."""
    line = pl.col("line")
    whole = pl.scan_lines(path, name="line").filter(line.str.starts_with("{") & line.str.ends_with("}"))
    return whole.select(line.str.json_decode(pl.Struct(SCHEMA)).struct.unnest())


def unique(rows):
    return rows.unique(subset=["sensor", "seq"], keep="any").sort("at")


def imputed(rows):
    def filled(name):
        value = pl.col(name)
        mean = value.fill_null(0.0).cum_sum() / value.cum_count()
        return pl.when(value.cum_count() > 0).then(value.fill_null(mean)).over("sensor")

    return rows.with_columns(filled(name) for name in CHANNELS)


def filtered(rows):
    return rows.filter(pl.all_horizontal(pl.col(name).is_between(LOW, HIGH) for name in CHANNELS))


def scored(rows):
    def score(name):
        value = pl.col(name)
        count = pl.int_range(pl.len()).cast(pl.Float64)
        mean = (value.cum_sum() - value) / count
        squares = (value * value).cum_sum() - value * value
        deviation = ((squares - count * mean * mean) / (count - 1)).sqrt()
        found = ((value - mean) / deviation).clip(-LIMIT, LIMIT)
        return pl.when((count >= WARM_UP) & (deviation > 0)).then(found).otherwise(0.0).over("sensor").alias(name)

    return rows.with_columns(score(name) for name in CHANNELS)


def averaged(rows):
    window = (pl.col("at") // WINDOW_MS * WINDOW_MS).alias("window_start")
    return rows.group_by("sensor", window).agg(pl.col(name).mean() for name in CHANNELS)


def count(rows, of=pl.len()):
    return rows.select(of).collect(engine="streaming").item()


def main():
    path, out, counts = arguments()
    parsed = records(path)
    clean = unique(parsed)
    full = imputed(clean)
    kept = filtered(full)
    averaged(scored(kept)).sink_parquet(out, compression="snappy", engine="streaming")
    told = {"out": count(pl.scan_parquet(out))}
    if counts:
        lines, good, single, left = count(pl.scan_lines(path)), count(parsed), count(clean), count(kept)
        missing = pl.sum_horizontal(pl.col(name).null_count() for name in CHANNELS)
        told |= {
            "records": lines,
            "dead": lines - good,
            "duplicates": good - single,
            "imputed": count(clean, missing) - count(full, missing),
            "filtered": single - left,
        }
    tell(told)


main()
