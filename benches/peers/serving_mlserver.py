"""Serves one ONNX file by the Open Inference Protocol, with ONNX Runtime in MLServer (Seldon): a model server that one installs.

    python serving_mlserver.py model.onnx PORT NAME
"""

import asyncio
import sys

import onnxruntime
from mlserver import MLModel, MLServer, ModelSettings, Settings
from mlserver.codecs import NumpyCodec
from mlserver.settings import ModelParameters
from mlserver.types import InferenceRequest, InferenceResponse


class Onnx(MLModel):
    async def load(self) -> bool:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(self.settings.parameters.uri, options)
        self.names = [output.name for output in self.session.get_outputs()]
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        values = self.session.run(None, {tensor.name: NumpyCodec.decode_input(tensor) for tensor in payload.inputs})
        outputs = [NumpyCodec.encode_output(name, value) for name, value in zip(self.names, values)]
        return InferenceResponse(model_name=self.name, outputs=outputs)


async def serve(path: str, port: int, name: str) -> None:
    # In its own process, as the other server: further ones would only share the cores.
    server = MLServer(Settings(debug=False, host="127.0.0.1", http_port=port, grpc_port=port + 1, metrics_endpoint=None, parallel_workers=0))
    model = ModelSettings(name=name, implementation=Onnx, parameters=ModelParameters(uri=path))
    await server.start([model])


asyncio.run(serve(sys.argv[1], int(sys.argv[2]), sys.argv[3]))
