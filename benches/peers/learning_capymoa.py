"""MOA, by CapyMOA, on the streams of the bench `learning`: prequential accuracy with default settings, and examples per CPU second.

    cargo bench -p millstream-benches --bench learning -- write
    pip install -r benches/peers/learning_capymoa.txt            # needs a Java runtime, 11 or newer
    python3 benches/peers/learning_capymoa.py [dense30 phishing bananas sea agrawal hyperplane]

The whole loop runs in MOA's own Java; a first run of each on the same stream warms it up and is not counted. All columns are numbers to it.
"""

from capymoa.classifier import AdaptiveRandomForestClassifier, HoeffdingTree
from capymoa.evaluation import prequential_evaluation
from capymoa.stream import stream_from_file

from learning import arguments, path, table

MODELS = {
    "Hoeffding tree": lambda schema: HoeffdingTree(schema=schema),
    "ARF(10)": lambda schema: AdaptiveRandomForestClassifier(schema=schema, ensemble_size=10, number_of_jobs=1),
}


def run(name, make, most):
    stream = stream_from_file(str(path(name)), dataset_name=name, class_index=-1, target_type="categorical")
    return prequential_evaluation(stream, make(stream.get_schema()), max_instances=most, optimise=True)


def main():
    options = arguments(["dense30", "phishing", "bananas", "sea", "agrawal", "hyperplane"])
    results = []
    for name in options.streams:
        rows = sum(1 for _ in open(path(name))) - 1
        most = min(options.rows or rows, rows)
        for model, make in MODELS.items():
            run(name, make, most)
            found = run(name, make, most)
            speed = most / max(found.cpu_time(), 1e-9)
            results.append((name, model, most, f"{found.cumulative.accuracy():.2f}", f"{speed:,.0f}"))
            print("  ".join(map(str, results[-1])), flush=True)
    table("MOA", results)


if __name__ == "__main__":
    main()
