"""What all who do the sensor job agree on; see benches/benches/sensors/main.rs."""

import json
import sys

CHANNELS = ["temperature", "humidity", "pressure", "vibration", "voltage", "current", "flow", "level"]
LATENESS_MS = 5000
DEDUPLICATE_MS = 60_000
LOW, HIGH = -100.0, 100.0
WARM_UP = 10
LIMIT = 5.0
WINDOW_MS = 10_000


def arguments():
    """The file of records, where the result goes, and whether to count what becomes of the records on the way."""
    records, out, *rest = sys.argv[1:]
    return records, out, "--count" in rest


def tell(counts):
    """What became of the records, as the last line."""
    print(json.dumps(counts))
