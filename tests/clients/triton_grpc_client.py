"""Asks a pipeline over gRPC with NVIDIA's client of the Open Inference Protocol: in raw contents, and in typed ones."""

import sys

import numpy
import tritonclient.grpc as grpc
from tritonclient.grpc import service_pb2

if sys.argv[2:]:
    folder = sys.argv[2]
    certificates = {"root_certificates": f"{folder}/authority.pem", "private_key": f"{folder}/client.key", "certificate_chain": f"{folder}/client.pem"}
    client = grpc.InferenceServerClient(sys.argv[1], ssl=True, **certificates)
    while not client.is_server_ready():
        pass
else:
    client = grpc.InferenceServerClient(sys.argv[1])
assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("questions")
assert client.get_server_metadata().name == "millstream"
metadata = client.get_model_metadata("questions")
assert [output.name for output in metadata.outputs] == ["prediction", "probability"], metadata
assert [(tensor.name, tensor.datatype, list(tensor.shape)) for tensor in metadata.inputs][2] == ("heat", "FP64", [-1]), metadata

heats, sensors = numpy.array([5.0, 35.0, 38.5]), numpy.array(["a", "b", "ü"], dtype=object)
heat = grpc.InferInput("heat", [3], "FP64")
heat.set_data_from_numpy(heats)
sensor = grpc.InferInput("sensor", [3], "BYTES")
sensor.set_data_from_numpy(sensors)
answer = client.infer("questions", [heat, sensor], request_id="7", timeout=10_000_000)
assert answer.get_response().id == "7", answer.get_response()
said = answer.as_numpy("probability")
assert said.dtype == numpy.float64 and said.shape == (3,), said
assert answer.as_numpy("prediction").tolist() == [False, True, True], answer.get_response()
parameters = answer.get_response().parameters
assert parameters["model"].string_param == "hot" and parameters["revision"].int64_param > 0, parameters

# Typed contents, which the client does not write by itself.
asked = service_pb2.ModelInferRequest(model_name="questions")
asked.inputs.add(name="heat", datatype="FP64", shape=[3, 1]).contents.fp64_contents.extend(heats)
asked.inputs.add(name="sensor", datatype="BYTES", shape=[3]).contents.bytes_contents.extend(text.encode() for text in sensors)
asked.inputs.add(name="count", datatype="INT32", shape=[3]).contents.int_contents.extend([-1, 0, 1])
asked.inputs.add(name="hot", datatype="BOOL", shape=[3]).contents.bool_contents.extend([True, False, True])
asked.outputs.add(name="probability")
asked.parameters["at_least"].string_param = '{"readings/0": 400}'
answer = client._client_stub.ModelInfer(asked)
assert [output.name for output in answer.outputs] == ["probability"], answer
assert numpy.array_equal(numpy.frombuffer(answer.raw_output_contents[0]), said), (answer, said)

for code, act in [
    ("NOT_FOUND", lambda: client.infer("nobody", [heat])),
    ("NOT_FOUND", lambda: client.infer("questions", [heat], model_version="3")),
    ("INVALID_ARGUMENT", lambda: client.infer("questions", [heat], outputs=[grpc.InferRequestedOutput("chance")])),
    ("DEADLINE_EXCEEDED", lambda: client.infer("questions", [heat], timeout=1000, parameters={"at_least": 10**9})),
    ("DEADLINE_EXCEEDED", lambda: client.infer("questions", [heat], client_timeout=0.01, parameters={"at_least": 10**9})),
    ("UNIMPLEMENTED", lambda: client.get_model_repository_index()),
]:
    try:
        act()
    except grpc.InferenceServerException as refused:
        assert refused.status() == f"StatusCode.{code}", (code, refused.status(), refused)
    else:
        raise AssertionError(f"{code} was expected")
print("tritonclient:", said)
