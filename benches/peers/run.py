"""Runs the sensor job in its peers, each in a virtual environment of its own, and tells what it took.

    python3 benches/peers/run.py RECORDS.ndjson [polars bytewax pathway flink] [--runs N] [--count]

`cargo bench -p millstream-benches --bench sensors -- generate LINES SENSORS BURST FOLDER` writes the records. The
environments and the results lie in the target folder. Flink needs a Java runtime, 11 or newer.
"""

import argparse
import ctypes
import json
import os
import pathlib
import statistics
import subprocess
import sys
import threading
import time

HERE = pathlib.Path(__file__).resolve().parent
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", HERE.parent.parent / "target")) / "peers"
PEERS = ["polars", "bytewax", "pathway", "flink"]
PAGE = os.sysconf("SC_PAGE_SIZE")


def python(peer):
    """The interpreter of a peer's environment, which is made where it is not there."""
    folder = TARGET / peer
    if not (folder / "installed").exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        install = [folder / "bin/python", "-m", "pip", "install", "--quiet", "-r", HERE / f"{peer}.txt"]
        subprocess.run(install, check=True)
        (folder / "installed").touch()
    return folder / "bin/python"


def children(root):
    """A process and all that it started, with the memory of each in bytes."""
    parents, memory = {}, {}
    for entry in os.listdir("/proc"):
        try:
            fields = open(f"/proc/{entry}/stat").read().rsplit(")", 1)[1].split()
            parents.setdefault(int(fields[1]), []).append(int(entry))
            memory[int(entry)] = int(fields[21]) * PAGE
        except (OSError, ValueError, IndexError):
            continue
    found, ahead = {}, [root]
    while ahead:
        process = ahead.pop()
        found[process] = memory.get(process, 0)
        ahead += parents.get(process, [])
    return found


def adopt():
    """Makes this process the parent of what its children leave behind: Flink's Java outlives the Python that started it."""
    set_child_subreaper = 36
    if ctypes.CDLL(None, use_errno=True).prctl(set_child_subreaper, 1, 0, 0, 0) != 0:
        raise SystemExit("this kernel does not let a process adopt others")


def measure(command):
    """Seconds of wall and CPU time, peak memory in MB of a process with all it starts, and what it told."""
    before, start = os.times(), time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=HERE)
    peak, ended = 0, threading.Event()

    def watch():
        nonlocal peak
        while not ended.wait(0.05):
            peak = max(peak, sum(children(process.pid).values()))

    watcher = threading.Thread(target=watch)
    watcher.start()
    out, err = process.communicate()
    while True:
        try:
            os.wait()
        except ChildProcessError:
            break
    ended.set()
    watcher.join()
    wall, after = time.monotonic() - start, os.times()
    if process.returncode != 0:
        raise SystemExit(f"{command[1]} failed:\n{err[-3000:]}")
    # A child's times count once it has ended and its parent has taken note, down to the grandchildren.
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return {"wall": wall, "cpu": cpu, "peak_mb": peak / 1e6, "counts": json.loads(out.splitlines()[-1])}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("records", type=pathlib.Path)
    parser.add_argument("peers", nargs="*", help=f"of {PEERS}; by default all")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--count", action="store_true", help="also count what becomes of the records on the way")
    given = parser.parse_args()
    adopt()
    lines = sum(1 for _ in open(given.records, "rb"))
    out = TARGET / "out"
    out.mkdir(parents=True, exist_ok=True)
    agreed = {}
    print(f"{lines:,} records, medians of {given.runs}")
    for peer in given.peers or PEERS:
        command = [python(peer), HERE / f"{peer}_job.py", given.records.resolve(), out / peer]
        command += ["--count"] if given.count else []
        runs = [measure([str(part) for part in command]) for _ in range(given.runs)]
        wall, cpu, peak = (statistics.median(run[part] for run in runs) for part in ["wall", "cpu", "peak_mb"])
        counts = runs[-1]["counts"]
        for name, number in counts.items():
            if agreed.setdefault(name, number) != number:
                print(f"  {peer} counts {number} {name}, not {agreed[name]}")
        print(f"{peer:8} {wall:7.2f} s  {cpu:7.2f} CPU s  {lines / cpu:12,.0f} records/CPU s  {peak:6.0f} MB  {counts}")


main()
