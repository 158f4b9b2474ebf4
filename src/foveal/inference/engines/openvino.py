"""OpenVINO, on the processor, in float32."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from foveal.inference.engines import _onnx
from foveal.inference.pieces import Piece
from foveal.inference.tracing import Graph, in_order, needed, spoiled

END = "xml"


def check(*, writes: bool) -> None:
    """Raise InputError for a package that is not installed."""
    needed("openvino", (*(_onnx.WRITERS if writes else ()), "openvino"), extra="openvino")


def write(piece: Piece, path: Path) -> dict[str, Any]:
    """Trace a part and write its graph, beside which its weights lie; there is no more to tell of it."""
    import openvino

    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "graph.onnx"
        _onnx.write(piece, place)
        openvino.save_model(openvino.Core().read_model(str(place)), str(path), compress_to_fp16=False)
    return {}


def opened(path: Path, told: Mapping[str, Any]) -> Graph:
    """The graph of a file, in float32 whatever the processor would rather have."""
    import openvino

    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    try:
        compiled = openvino.Core().compile_model(str(path), "CPU", settings)
    except RuntimeError as error:
        raise spoiled(path, error) from None
    # a port may have several names where something was folded away, of which it tells any
    names = [next(name for name in told["given"] if name in port.names) for port in compiled.inputs]
    gives = told["gives"]
    request = compiled.create_infer_request()

    def run(given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        made = request.infer({name: value.numpy() for name, value in in_order(given, names).items()})
        return {name: torch.from_numpy(made[place].copy()) for place, name in enumerate(gives)}

    return Graph(run=run, by="OpenVINO, on the processor")
