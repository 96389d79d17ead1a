"""MOA, by CapyMOA, on the streams of the bench `learning`: prequential accuracy with default settings, and examples per CPU second.

    cargo bench -p millstream-benches --bench learning -- write
    pip install -r benches/peers/learning_capymoa.txt            # needs a Java runtime, 11 or newer
    python3 benches/peers/learning_capymoa.py [dense30 phishing bananas sea agrawal hyperplane]

The whole loop runs in MOA's own Java; a first run of each on the same stream warms it up and is not counted.
"""

from capymoa.classifier import AdaptiveRandomForestClassifier, HoeffdingTree
from capymoa.evaluation import prequential_evaluation
from capymoa.stream import ARFFStream, MOAStream
from com.yahoo.labs.samoa.instances import Instances
from moa.streams import CachedInstancesStream

from learning import FOLDER, arguments, rows, table

MODELS = {
    "Hoeffding tree": lambda schema: HoeffdingTree(schema=schema),
    "ARF(10)": lambda schema: AdaptiveRandomForestClassifier(schema=schema, ensemble_size=10, number_of_jobs=1),
}


def arff(name, most):
    """The stream as MOA reads it: categories are nominal, as they are to the bench."""
    names, columns, classes = rows(name, most)
    counts = {at: int(max(row[at] for row in columns)) + 1 for at, column in enumerate(names) if column[0] == "c"}
    kinds = ["{" + ",".join(map(str, range(counts[at]))) + "}" if at in counts else "numeric" for at in range(len(names))]
    target = FOLDER / f"{name}.arff"
    with open(target, "w") as file:
        file.write(f"@relation {name}\n")
        file.writelines(f"@attribute {column} {kind}\n" for column, kind in zip(names, kinds))
        file.write("@attribute y {0,1}\n@data\n")
        for row, label in zip(columns, classes):
            cells = [str(int(cell)) if at in counts else repr(cell) for at, cell in enumerate(row)]
            file.write(",".join(cells) + f",{label}\n")
    return target


class InMemory(MOAStream):
    """A file that was read before, so that reading is not in the time."""

    def __init__(self, path):
        file = ARFFStream(str(path))
        read = file.get_moa_stream()
        instances = Instances(read.getHeader(), 0)
        while read.hasMoreInstances():
            instances.add(read.nextInstance().getData())
        # MOA's own needs no options, which the class above would ask for.
        self.schema, self.moa_stream, self._CLI = file.get_schema(), CachedInstancesStream(instances), None


def run(path, make, most):
    stream = InMemory(path)
    return prequential_evaluation(stream, make(stream.get_schema()), max_instances=most, optimise=True)


def main():
    options = arguments(["dense30", "phishing", "bananas", "sea", "agrawal", "hyperplane"])
    results = []
    for name in options.streams:
        data = arff(name, options.rows)
        most = sum(1 for line in open(data) if line[0] not in "@\n")
        for model, make in MODELS.items():
            run(data, make, most)
            found = run(data, make, most)
            speed = most / max(found.cpu_time(), 1e-9)
            results.append((name, model, most, f"{found.cumulative.accuracy():.2f}", f"{speed:,.0f}"))
            print("  ".join(map(str, results[-1])), flush=True)
    table("MOA", results)


if __name__ == "__main__":
    main()
