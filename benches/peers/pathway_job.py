"""The sensor job in Pathway, run once over a file that does not grow.

What depends on the rows before has to be computed in Python: a sensor's rows are brought together, in the order of time.
Its sinks know Parquet only as Delta tables, so the result is CSV.
"""

import json
import math

import pathway as pw

from job import CHANNELS, HIGH, LIMIT, LOW, WARM_UP, WINDOW_MS, arguments, tell

PATH, OUT, _ = arguments()
COUNTS = dict.fromkeys(["records", "dead", "imputed", "filtered", "out"], 0)


@pw.udf
def parse(line: str) -> pw.Json | None:
    COUNTS["records"] += 1
    try:
        return pw.Json(json.loads(line))
    except ValueError:
        COUNTS["dead"] += 1
        return None


def impute(sums, numbers, values):
    for channel, value in enumerate(values):
        if value is not None:
            sums[channel] += value
            numbers[channel] += 1
        elif numbers[channel]:
            values[channel] = sums[channel] / numbers[channel]
            COUNTS["imputed"] += 1


def score(count, means, squares, values):
    scores = []
    for channel, value in enumerate(values):
        deviation = math.sqrt(squares[channel] / (count - 1)) if count > 1 else 0.0
        known = count >= WARM_UP and deviation > 0
        scores.append(max(-LIMIT, min(LIMIT, (value - means[channel]) / deviation)) if known else 0.0)
        from_mean = value - means[channel]
        means[channel] += from_mean / (count + 1)
        squares[channel] += from_mean * (value - means[channel])
    return scores


@pw.udf
def clean(rows: tuple) -> list[tuple[int, tuple[float, ...]]]:
    zeros = [0.0] * len(CHANNELS)
    sums, numbers, count, means, squares = zeros[:], zeros[:], 0, zeros[:], zeros[:]
    out = []
    for at, *values in rows:
        impute(sums, numbers, values)
        if all(value is not None and LOW <= value <= HIGH for value in values):
            out.append((at, tuple(score(count, means, squares, values))))
            count += 1
        else:
            COUNTS["filtered"] += 1
    return out


lines = pw.io.plaintext.read(PATH, mode="static")
parsed = lines.select(record=parse(pw.this.data)).filter(pw.this.record.is_not_none())
record = pw.this.record
rows = parsed.select(
    sensor=record["sensor"].as_str(),
    seq=record["seq"].as_int(),
    at=record["at"].as_int(),
    **{name: record[name].as_float() for name in CHANNELS},
)
first = {name: pw.reducers.any(pw.this[name]) for name in ["at", *CHANNELS]}
single = rows.groupby(pw.this.sensor, pw.this.seq).reduce(pw.this.sensor, **first)
packed = single.select(pw.this.sensor, row=pw.make_tuple(pw.this.at, *(pw.this[name] for name in CHANNELS)))
histories = packed.groupby(pw.this.sensor).reduce(pw.this.sensor, rows=pw.reducers.sorted_tuple(pw.this.row))
scored = histories.select(pw.this.sensor, row=clean(pw.this.rows)).flatten(pw.this.row)
columns = {name: pw.this.row[1][channel] for channel, name in enumerate(CHANNELS)}
scored = scored.select(pw.this.sensor, at=pw.this.row[0], **columns)
windows = scored.windowby(pw.this.at, window=pw.temporal.tumbling(duration=WINDOW_MS), instance=pw.this.sensor).reduce(
    sensor=pw.this._pw_instance,
    window_start=pw.this._pw_window_start,
    **{name: pw.reducers.avg(pw.this[name]) for name in CHANNELS},
)
pw.io.csv.write(windows, OUT)
pw.run(monitoring_level=pw.MonitoringLevel.NONE)
with open(OUT) as written:
    COUNTS["out"] = sum(1 for _ in written) - 1
tell(COUNTS)
