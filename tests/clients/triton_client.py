"""Asks a pipeline over HTTP with NVIDIA's client of the Open Inference Protocol: in JSON and in binary data."""

import sys

import numpy
import tritonclient.http as http

client = http.InferenceServerClient(sys.argv[1])
assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("questions")
metadata = client.get_model_metadata("questions")
assert [output["name"] for output in metadata["outputs"]] == ["prediction", "probability"], metadata

heats = numpy.array([5.0, 35.0, 38.5])
said = []
for binary in [False, True]:
    heat = http.InferInput("heat", [3], "FP64")
    heat.set_data_from_numpy(heats, binary_data=binary)
    sensor = http.InferInput("sensor", [3], "BYTES")
    sensor.set_data_from_numpy(numpy.array(["a", "b", "ü"], dtype=object), binary_data=binary)
    outputs = None if binary else [http.InferRequestedOutput("probability", binary_data=False)]
    answer = client.infer("questions", [heat, sensor], outputs=outputs, request_id="7")
    assert answer.get_response()["id"] == "7", answer.get_response()
    said.append(answer.as_numpy("probability"))
    assert said[-1].dtype == numpy.float64 and said[-1].shape == (3,), said[-1]
    if binary:
        assert answer.as_numpy("prediction").tolist() == [False, True, True], answer.get_response()
assert numpy.array_equal(said[0], said[1]), said
try:
    client.infer("nobody", [heat])
except http.InferenceServerException as refused:
    assert "there are questions" in str(refused), refused
else:
    raise AssertionError("nobody answered")
print("tritonclient:", said[0])
