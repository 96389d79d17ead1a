"""Serves one ONNX file by the Open Inference Protocol, with ONNX Runtime behind uvicorn: what one writes in Python without a model server.

    python serving_onnxruntime.py model.onnx PORT
"""

import sys

import numpy
import onnxruntime
import orjson
import uvicorn

TYPES = {"FP64": numpy.float64, "FP32": numpy.float32, "INT64": numpy.int64, "INT32": numpy.int32, "BOOL": numpy.bool_}

options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession(sys.argv[1], options)
names = [output.name for output in session.get_outputs()]


async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    body = b""
    while True:
        event = await receive()
        body += event.get("body", b"")
        if not event.get("more_body"):
            break
    asked = orjson.loads(body)
    inputs = {
        tensor["name"]: numpy.array(tensor["data"], TYPES[tensor["datatype"]]).reshape(tensor["shape"])
        for tensor in asked["inputs"]
    }
    outputs = [
        {"name": name, "shape": list(value.shape), "datatype": "FP64", "data": value.ravel().tolist()}
        for name, value in zip(names, session.run(None, inputs))
    ]
    answer = orjson.dumps({"outputs": outputs})
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(answer)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": answer})


uvicorn.run(app, port=int(sys.argv[2]), log_level="error", access_log=False)
