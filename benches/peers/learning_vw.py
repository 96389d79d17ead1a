"""Vowpal Wabbit on the streams of the bench `learning`: logistic loss with its defaults, from its cache.

    cargo bench -p millstream-benches --bench learning -- write
    pip install -r benches/peers/learning_vw.txt
    python3 benches/peers/learning_vw.py [dense8 hashed39 phishing bananas sea agrawal hyperplane]

A first pass makes the cache and is not counted. It has a thread that reads and one that learns: what counts is the CPU time of both.
The accuracy is its progressive 0/1 loss.
"""

import os
import tempfile
import time

import vowpalwabbit

from learning import arguments, path, table


def run(data, cache, extra=""):
    """Seconds of CPU time, examples, and the mean progressive loss."""
    command = f"--data {data} --cache_file {cache} --loss_function logistic -b 18 --quiet {extra}"
    start = time.process_time()
    learner = vowpalwabbit.Workspace(command)
    learner.run_parser()
    seconds = time.process_time() - start
    examples, loss = learner.get_weighted_examples(), learner.get_sum_loss()
    learner.finish()
    return seconds, examples, loss / max(examples, 1)


def main():
    options = arguments(["dense8", "hashed39", "phishing", "bananas", "sea", "agrawal", "hyperplane"])
    results = []
    for name in options.streams:
        with tempfile.TemporaryDirectory() as folder:
            cache, data = os.path.join(folder, "cache"), path(name, "vw")
            run(data, cache)
            _, examples, wrong = run(data, cache, "--binary")
            seconds = sorted(run(data, cache)[0] for _ in range(3))[1]
        results.append((name, "logistic", int(examples), f"{100 * (1 - wrong):.2f}", f"{examples / seconds:,.0f}"))
        print("  ".join(map(str, results[-1])), flush=True)
    table("Vowpal Wabbit", results)


if __name__ == "__main__":
    main()
