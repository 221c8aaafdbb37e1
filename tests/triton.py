"""Runs a Triton model repository by its configurations, without the server.

What the server alone has is played: the module `triton_python_backend_utils`, and the passing of tensors from step to
step. The configurations are parsed by Triton's own schema, `model.py` and the graph are the files of the repository.
"""

import importlib.util
import json
import runpy
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import onnxruntime
import pytest
from google.protobuf import json_format, text_format

# By Triton's names of types; ONNX Runtime's names of the same.
TYPES = {"TYPE_INT64": ("int64", "tensor(int64)"), "TYPE_FP32": ("float32", "tensor(float)")}


class Tensor(NamedTuple):
    """What the server's module calls so."""

    name: str
    value: np.ndarray

    def as_numpy(self) -> np.ndarray:
        """As the server's."""
        return self.value


@cache
def schema() -> Any:
    """Triton's schema of configurations. The package around it would import gRPC."""
    found = importlib.util.find_spec("tritonclient")
    assert found is not None
    assert found.submodule_search_locations is not None
    path = Path(found.submodule_search_locations[0], "grpc", "model_config_pb2.py")
    spec = importlib.util.spec_from_file_location("model_config_pb2", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def config(model: Path) -> Any:
    """The configuration of a model, as Triton parses it."""
    return text_format.Parse((model / "config.pbtxt").read_text(), schema().ModelConfig())


def kind(port: Any) -> str:
    """Triton's name of the type of an input or output."""
    return str(schema().DataType.Name(port.data_type))


class Server:
    """Serves one ensemble.

    Args:
        repository: Its folder.
        name: The ensemble's.
    """

    def __init__(self, repository: Path, name: str) -> None:
        self.repository, self.ensemble = repository, config(repository / name)
        assert self.ensemble.platform == "ensemble"
        assert (repository / name / "1").is_dir()

    def infer(self, requests: Sequence[Sequence[Sequence[str]]]) -> list[dict[str, np.ndarray]]:
        """The outputs for requests, each of rows of texts, that the tokenizer gets together."""
        (texts,) = self.ensemble.input
        assert kind(texts) == "TYPE_STRING"
        tensors = [
            {texts.name: np.array([[part.encode() for part in row] for row in rows], object)} for rows in requests
        ]
        assert all(each[texts.name].shape[1:] == tuple(texts.dims) for each in tensors)
        for step in self.ensemble.ensemble_scheduling.step:
            inputs = [{name: each[key] for name, key in step.input_map.items()} for each in tensors]
            for each, found in zip(tensors, self.run(step.model_name, inputs), strict=True):
                each |= {key: found[name] for name, key in step.output_map.items()}
        return [{output.name: each[output.name] for output in self.ensemble.output} for each in tensors]

    def run(self, model: str, inputs: list[dict[str, np.ndarray]]) -> list[dict[str, np.ndarray]]:
        """One model's outputs for what each request gives it."""
        folder = self.repository / model
        said = config(folder)
        assert said.name == model
        assert said.HasField("dynamic_batching")
        assert all(len(value) <= said.max_batch_size for each in inputs for value in each.values())
        found = self.python(folder, said, inputs) if said.backend == "python" else self.graph(folder, said, inputs)
        for output in said.output:
            for each in found:
                assert each[output.name].dtype == TYPES[kind(output)][0]
                sizes = zip(each[output.name].shape[1:], output.dims, strict=True)
                assert all(wanted in (size, -1) for size, wanted in sizes)
        return found

    @staticmethod
    def python(folder: Path, said: Any, inputs: list[dict[str, np.ndarray]]) -> list[dict[str, np.ndarray]]:
        """The outputs of `model.py`, which gets all requests at once."""
        played: Any = ModuleType("triton_python_backend_utils")
        played.Tensor, played.InferenceResponse = Tensor, list
        played.get_input_tensor_by_name = lambda request, name: Tensor(name, request[name])
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(sys.modules, "triton_python_backend_utils", played)
            model = runpy.run_path(str(folder / "1" / "model.py"))["TritonPythonModel"]()
        model_config = json.dumps(json_format.MessageToDict(said, preserving_proto_field_name=True))
        model.initialize({"model_config": model_config, "model_repository": str(folder), "model_version": "1"})
        return [{each.name: each.value for each in response} for response in model.execute(inputs)]

    @staticmethod
    def graph(folder: Path, said: Any, inputs: list[dict[str, np.ndarray]]) -> list[dict[str, np.ndarray]]:
        """The outputs of the graph, which must have what the configuration says."""
        assert said.backend == "onnxruntime"
        session = onnxruntime.InferenceSession(folder / "1" / "model.onnx", providers=["CPUExecutionProvider"])
        held = {each.name: each for each in (*session.get_inputs(), *session.get_outputs())}
        assert {each.name for each in said.input} == {each.name for each in session.get_inputs()}
        for each in (*said.input, *said.output):
            assert held[each.name].type == TYPES[kind(each)][1]
            # The batch comes first, in the graph alone; a size with a name is any.
            sizes = [size if isinstance(size, int) else -1 for size in held[each.name].shape]
            assert sizes == [-1, *each.dims]
        names = [each.name for each in said.output]
        return [dict(zip(names, session.run(names, each), strict=True)) for each in inputs]
