"""Fetches the river wheel and unpacks the data sets that the bench `learning` reads into the target folder, as plain
CSV without a first line, the class last.

    python3 benches/peers/river_data.py
"""

import csv
import gzip
import io
import os
import pathlib
import subprocess
import sys
import tempfile
import zipfile

HERE = pathlib.Path(__file__).resolve().parent
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", HERE.parent.parent / "target")) / "learning"
VERSION = next(line for line in open(HERE / "learning_river.txt") if line.startswith("river==")).strip()


def unpacked(wheel, name):
    """The text of a data set, whichever way it is packed."""
    data = wheel.read(f"river/datasets/{name}")
    if name.endswith(".gz"):
        return gzip.decompress(data).decode()
    inner = zipfile.ZipFile(io.BytesIO(data))
    return inner.read(inner.namelist()[0]).decode()


def write(name, rows):
    with open(TARGET / f"{name}.csv", "w", newline="") as file:
        csv.writer(file).writerows(rows)
    print(TARGET / f"{name}.csv")


def main():
    TARGET.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        download = [sys.executable, "-m", "pip", "download", VERSION, "--no-deps", "--quiet", "--dest", folder]
        subprocess.run(download, check=True)
        wheel = zipfile.ZipFile(next(pathlib.Path(folder).glob("river-*.whl")))
    phishing = list(csv.reader(unpacked(wheel, "phishing.csv.gz").splitlines()))
    write("phishing", phishing[1:])
    # Lines of the form `class 1:x 2:y`, the class -1 or 1.
    bananas = [line.split() for line in unpacked(wheel, "banana.zip").splitlines() if line.strip()]
    number = lambda cell: cell.split(":")[-1]
    write("bananas", [[number(row[1]), number(row[2]), int(float(row[0]) > 0)] for row in bananas])


if __name__ == "__main__":
    main()
