"""The sensor job in Flink SQL: one task slot of a local cluster, streaming, through PyFlink; no Python runs per row.

Flink's Parquet format is not in the package from PyPI, so the result is CSV.
"""

import os
import shutil

from pyflink.common import Configuration
from pyflink.table import EnvironmentSettings, TableEnvironment

from job import CHANNELS, DEDUPLICATE_MS, HIGH, LATENESS_MS, LIMIT, LOW, WARM_UP, WINDOW_MS, arguments, tell


def columns(text):
    return ", ".join(text.format(c=f"`{name}`") for name in CHANNELS)


def statements(path, out):
    yield f"""CREATE TABLE readings (sensor STRING, seq BIGINT, `at` BIGINT, {columns("{c} DOUBLE")},
        seen AS PROCTIME(), rowtime AS TO_TIMESTAMP_LTZ(`at`, 3),
        WATERMARK FOR rowtime AS rowtime - INTERVAL '{LATENESS_MS // 1000}' SECOND)
        WITH ('connector' = 'filesystem', 'path' = '{path}', 'format' = 'json', 'json.ignore-parse-errors' = 'true')"""
    yield f"""CREATE TABLE clean (sensor STRING, window_start TIMESTAMP(3), {columns("{c} DOUBLE")})
        WITH ('connector' = 'filesystem', 'path' = '{out}', 'format' = 'csv')"""
    yield f"""CREATE TEMPORARY VIEW single AS SELECT sensor, rowtime, {columns("{c}")} FROM (
        SELECT *, ROW_NUMBER() OVER (PARTITION BY sensor, seq ORDER BY seen) AS copy FROM readings) WHERE copy = 1"""
    yield f"""CREATE TEMPORARY VIEW filled AS SELECT sensor, rowtime, {columns("COALESCE({c}, AVG({c}) OVER past) AS {c}")}
        FROM single WINDOW past AS (PARTITION BY sensor ORDER BY rowtime ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW)"""
    inside = " AND ".join(f"`{name}` BETWEEN {LOW} AND {HIGH}" for name in CHANNELS)
    yield f"CREATE TEMPORARY VIEW kept AS SELECT * FROM filled WHERE {inside}"
    # A row's own part is taken out again: such a window cannot end before its row.
    past = ", ".join(
        f"`{name}`, SUM(`{name}`) OVER past - `{name}` AS `s_{name}`, "
        f"SUM(`{name}` * `{name}`) OVER past - `{name}` * `{name}` AS `q_{name}`"
        for name in CHANNELS
    )
    yield f"""CREATE TEMPORARY VIEW sums AS SELECT sensor, rowtime, CAST(COUNT(*) OVER past - 1 AS DOUBLE) AS n, {past}
        FROM kept WINDOW past AS (PARTITION BY sensor ORDER BY rowtime ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW)"""

    def score(name):
        variance = f"(`q_{name}` - `s_{name}` * `s_{name}` / n) / (n - 1)"
        found = f"(`{name}` - `s_{name}` / n) / SQRT({variance})"
        return f"""CASE WHEN n >= {WARM_UP} AND {variance} > 0
            THEN GREATEST(-{LIMIT}, LEAST({LIMIT}, {found})) ELSE 0.0 END AS `{name}`"""

    yield f"CREATE TEMPORARY VIEW scored AS SELECT sensor, rowtime, {', '.join(map(score, CHANNELS))} FROM sums"
    yield f"""INSERT INTO clean SELECT sensor, window_start, {columns("AVG({c}) AS {c}")}
        FROM TABLE(TUMBLE(TABLE scored, DESCRIPTOR(rowtime), INTERVAL '{WINDOW_MS // 1000}' SECONDS))
        GROUP BY sensor, window_start, window_end"""


def main():
    path, out, counts = arguments()
    shutil.rmtree(out, ignore_errors=True)
    configuration = Configuration()
    configuration.set_string("parallelism.default", "1")
    configuration.set_string("table.exec.state.ttl", f"{DEDUPLICATE_MS} ms")
    configuration.set_string("taskmanager.memory.process.size", "2g")
    configuration.set_string("table.local-time-zone", "UTC")
    environment = TableEnvironment.create(
        EnvironmentSettings.new_instance().in_streaming_mode().with_configuration(configuration).build())
    for statement in statements(os.path.abspath(path), os.path.abspath(out)):
        result = environment.execute_sql(statement)
    result.wait()
    written = [os.path.join(folder, name) for folder, _, names in os.walk(out) for name in names]
    told = {"out": sum(sum(1 for _ in open(name)) for name in written)}
    tell(told)


main()
