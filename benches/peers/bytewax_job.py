"""The sensor job in Bytewax: one worker, one step for each part of the job, as its users write them."""

import heapq
import json
import math
import os

import bytewax.operators as op
import pyarrow
import pyarrow.parquet
from bytewax.connectors.files import FileSource
from bytewax.dataflow import Dataflow
from bytewax.operators import StatefulBatchLogic
from bytewax.outputs import DynamicSink, StatelessSinkPartition
from bytewax.testing import cluster_main

from job import CHANNELS, DEDUPLICATE_MS, HIGH, LATENESS_MS, LIMIT, LOW, WARM_UP, WINDOW_MS, arguments, tell

PATH, OUT, _ = arguments()
COUNTS = dict.fromkeys(["records", "dead", "duplicates", "imputed", "filtered", "out"], 0)


def parse(line):
    COUNTS["records"] += 1
    try:
        record = json.loads(line)
    except ValueError:
        COUNTS["dead"] += 1
        return None
    return record["sensor"], (record["at"], record["seq"], [record[name] for name in CHANNELS])


class Ordered(StatefulBatchLogic):
    """Puts a sensor's records in the order of time, and leaves out what comes twice."""

    def __init__(self, _):
        self.waiting, self.newest, self.seen = [], 0, {}

    def on_batch(self, values):
        for value in values:
            heapq.heappush(self.waiting, value)
            self.newest = max(self.newest, value[0])
        return self.release(self.newest - LATENESS_MS), StatefulBatchLogic.RETAIN

    def on_eof(self):
        return self.release(math.inf), StatefulBatchLogic.RETAIN

    def release(self, before):
        out = []
        while self.waiting and self.waiting[0][0] < before:
            at, seq, values = heapq.heappop(self.waiting)
            seen = self.seen.get(seq)
            self.seen[seq] = at
            if seen is not None and at - seen <= DEDUPLICATE_MS:
                COUNTS["duplicates"] += 1
            else:
                out.append((at, values))
        if len(self.seen) > 200:
            self.seen = {seq: at for seq, at in self.seen.items() if before - at <= DEDUPLICATE_MS}
        return out

    def snapshot(self):
        return None


def impute(state, row):
    sums, numbers = state or ([0.0] * len(CHANNELS), [0] * len(CHANNELS))
    at, values = row
    values = list(values)
    for channel, value in enumerate(values):
        if value is not None:
            sums[channel] += value
            numbers[channel] += 1
        elif numbers[channel]:
            values[channel] = sums[channel] / numbers[channel]
            COUNTS["imputed"] += 1
    return (sums, numbers), (at, values)


def in_range(keyed):
    if all(value is not None and LOW <= value <= HIGH for value in keyed[1][1]):
        return True
    COUNTS["filtered"] += 1
    return False


def score(state, row):
    count, means, squares = state or (0, [0.0] * len(CHANNELS), [0.0] * len(CHANNELS))
    at, values = row
    scores = []
    for channel, value in enumerate(values):
        deviation = math.sqrt(squares[channel] / (count - 1)) if count > 1 else 0.0
        known = count >= WARM_UP and deviation > 0
        scores.append(max(-LIMIT, min(LIMIT, (value - means[channel]) / deviation)) if known else 0.0)
        from_mean = value - means[channel]
        means[channel] += from_mean / (count + 1)
        squares[channel] += from_mean * (value - means[channel])
    return (count + 1, means, squares), (at, scores)


class Averaged(StatefulBatchLogic):
    """Rows come in order, so a window ends when the next begins."""

    def __init__(self, _):
        self.start, self.count, self.sums = None, 0, []

    def on_batch(self, values):
        out = []
        for at, scores in values:
            start = at // WINDOW_MS * WINDOW_MS
            if start != self.start:
                out += self.ended()
                self.start, self.count, self.sums = start, 0, [0.0] * len(CHANNELS)
            self.count += 1
            for channel, value in enumerate(scores):
                self.sums[channel] += value
        return out, StatefulBatchLogic.RETAIN

    def ended(self):
        return [(self.start, [total / self.count for total in self.sums])] if self.count else []

    def on_eof(self):
        return self.ended(), StatefulBatchLogic.DISCARD

    def snapshot(self):
        return None


class Parquet(StatelessSinkPartition):
    def __init__(self):
        fields = [("sensor", pyarrow.string()), ("window_start", pyarrow.int64())]
        self.schema = pyarrow.schema(fields + [(name, pyarrow.float64()) for name in CHANNELS])
        self.writer = pyarrow.parquet.ParquetWriter(OUT, self.schema)
        self.rows = []

    def write_batch(self, items):
        self.rows += [(sensor, start, *means) for sensor, (start, means) in items]
        COUNTS["out"] += len(items)
        if len(self.rows) >= 8192:
            self.flush()

    def flush(self):
        columns = [list(column) for column in zip(*self.rows)]
        self.writer.write_table(pyarrow.table(columns, schema=self.schema))
        self.rows = []

    def close(self):
        if self.rows:
            self.flush()
        self.writer.close()


class ToParquet(DynamicSink):
    def build(self, step_id, worker_index, worker_count):
        return Parquet()


flow = Dataflow("sensors")
lines = op.input("lines", flow, FileSource(PATH, batch_size=1000))
parsed = op.filter_map("parse", lines, parse)
rows = op.stateful_batch("order", parsed, Ordered)
full = op.stateful_map("impute", rows, impute)
kept = op.filter("range", full, in_range)
scored = op.stateful_map("score", kept, score)
windows = op.stateful_batch("average", scored, Averaged)
op.output("parquet", windows, ToParquet())

cluster_main(flow, [], 0)
tell(COUNTS)
