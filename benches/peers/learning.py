"""What the peers of the bench `learning` share: its streams, and a table."""

import argparse
import csv
import os
import pathlib

HERE = pathlib.Path(__file__).resolve().parent
FOLDER = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", HERE.parent.parent / "target")) / "learning"


def arguments(streams):
    parser = argparse.ArgumentParser()
    parser.add_argument("streams", nargs="*", default=streams)
    parser.add_argument("--rows", type=int, help="only so many rows of each")
    parser.add_argument("--slow", action="store_true", help="what takes long, too")
    return parser.parse_args()


def path(name, kind="csv"):
    found = FOLDER / f"{name}.stream.{kind}"
    if not found.exists():
        raise SystemExit(f"{found} is not there: `cargo bench -p millstream-benches --bench learning -- write`")
    return found


def rows(name, most=None):
    """Names of the features, the rows, and the classes."""
    with open(path(name), newline="") as file:
        reader = csv.reader(file)
        names = next(reader)[:-1]
        columns, classes = [], []
        for row in reader:
            if most is not None and len(columns) == most:
                break
            columns.append([float(cell) for cell in row[:-1]])
            classes.append(int(row[-1]))
    return names, columns, classes


def table(title, results):
    lines = [("stream", "model", "rows", "accuracy, %", "per CPU second"), *results]
    widths = [max(len(str(line[at])) for line in lines) for at in range(5)]
    print(f"\n{title}")
    for line in lines:
        cells = [str(cell).rjust(width) if at > 1 else str(cell).ljust(width) for at, (cell, width) in enumerate(zip(line, widths))]
        print("  " + "  ".join(cells))
