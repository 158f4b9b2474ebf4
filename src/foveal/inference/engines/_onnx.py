"""ONNX files, and ONNX Runtime over them: what several engines share."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from foveal.inference.pieces import Piece
from foveal.inference.tracing import Graph, in_order, quiet, spoiled, traced

WRITERS = ("onnx", "onnxscript")
_LARGE = 1 << 30  # bytes of weights from which they stand in a file beside the graph, which may hold no more than two


def write(piece: Piece, path: Path) -> dict[str, Any]:
    """Trace a part and write its graph, beside which its weights may lie; there is no more to tell of it."""
    with quiet("torch.onnx"):
        made = torch.onnx.export(
            traced(piece), dynamo=True, verbose=False, input_names=[*piece.given], output_names=[*piece.gives]
        )  # fmt: skip
    assert made is not None
    size = sum(weight.numel() * weight.element_size() for weight in piece.part.state_dict().values())
    made.save(str(path), external_data=size >= _LARGE)
    return {}


def session(path: Path, providers: Sequence[str | tuple[str, dict[str, Any]]]) -> Graph:
    """A graph that ONNX Runtime computes by the first of its providers that takes it."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    try:
        made = onnxruntime.InferenceSession(str(path), options, providers=[*providers])
    except Exception as error:  # its errors have no class of their own in common
        raise spoiled(path, error) from None
    names = [one.name for one in made.get_inputs()]
    gives = [one.name for one in made.get_outputs()]

    def run(given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        told = made.run(None, {name: value.numpy() for name, value in in_order(given, names).items()})
        return {name: torch.from_numpy(value) for name, value in zip(gives, told, strict=True)}

    return Graph(run=run, by=f"ONNX Runtime, {' and '.join(made.get_providers())}")
