"""TensorRT, by ONNX Runtime's provider where that is there: ONNX graphs with the shapes that engines are built for."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from foveal.core.errors import InputError
from foveal.inference.engines import _onnx
from foveal.inference.pieces import Piece
from foveal.inference.tracing import Graph, needed

END = "onnx"
PROVIDER = "TensorrtExecutionProvider"
SCRIPT = "build.sh"
_ROWS, _LENGTH, _WORDS = 4, 1024, 8192  # the most that an engine is built for, where the example has no more
_OPSET, _TYPES = 20, ("FLOAT", "INT32", "INT64", "BOOL")  # what the ONNX parser of TensorRT 10 reads, of inputs too
_REFUSED = (  # and the operators that its list says it does not take, of such as are traced
    "AffineGrid Bernoulli BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Col2Im Compress ConvInteger DFT Det "
    "DynamicQuantizeLinear MatMulInteger MaxRoiPool MaxUnpool Multinomial QLinearConv QLinearMatMul STFT Unique"
)
_HEAD = """#!/bin/sh
# An engine of each graph, by TensorRT's own trtexec, for who runs them without ONNX Runtime.
set -e
cd "$(dirname "$0")"
"""


def check(*, writes: bool) -> None:
    """Raise InputError for a package that is not installed; onnxruntime-gpu is one of its names."""
    needed("tensorrt", (*(_onnx.WRITERS if writes else ()), "onnxruntime"), extra="onnx")


def write(piece: Piece, path: Path) -> dict[str, Any]:
    """Trace a part, write its graph and how an engine is built from it; tells for which shapes.

    Raises InputError for a graph that TensorRT is known not to read.
    """
    _onnx.write(piece, path)
    check_read(path)
    shapes = profile(piece)
    script = path.parent / SCRIPT
    if not script.exists():
        script.write_text(_HEAD, encoding="utf-8")
        script.chmod(0o755)
    parts = [f"trtexec --onnx={path.name} --saveEngine={path.stem}.engine --noTF32"]
    parts += [f"--{kind}Shapes={_spelled(shapes[kind])}" for kind in ("min", "opt", "max") if shapes[kind]]
    with script.open("a", encoding="utf-8") as written:
        written.write(" ".join(parts) + "\n")
    return {"profile": shapes}


def check_read(path: Path) -> None:
    """Raise InputError for operators, types and versions that TensorRT's parser does not take."""
    import onnx

    model = onnx.load(str(path), load_external_data=False)
    nodes = [*model.graph.node, *(node for function in model.functions for node in function.node)]
    kinds = {one.name: onnx.TensorProto.DataType.Name(one.type.tensor_type.elem_type) for one in model.graph.input}
    wrong = [f"the operator {name}" for name in sorted({node.op_type for node in nodes} & {*_REFUSED.split()})]
    wrong += [f"{name} in {kind}" for name, kind in kinds.items() if kind not in _TYPES]
    wrong += [f"opset {one.version}" for one in model.opset_import if one.domain == "" and one.version > _OPSET]
    if wrong:
        raise InputError(f"TensorRT does not read {' or '.join(wrong)}, which {path.stem} has; take --to onnx")


def profile(piece: Piece) -> dict[str, dict[str, list[int]]]:
    """The least, usual and largest shape of each input with free axes; the usual one reads an example's question.

    An engine's shapes agree among themselves, and none is empty: the first earlier token is one that nobody sees.
    """
    sizes = {kind: piece.given[name].shape[axis] for name, axes in piece.free.items() for axis, kind in axes.items()}
    length = sizes.get("length", 1)
    longest = max(_LENGTH, 2 * length)
    seen = sizes.get("tokens", 2)
    spans = {
        "rows": (1, 1, _ROWS),
        "length": (1, length, longest),
        "past": (1, 1, longest),
        "all": (2, length + 1, 2 * longest),
        "tokens": (2, seen, _ROWS * seen),
        "words": (1, 1, max(_WORDS, longest)),
    }

    def shape(name: str, place: int) -> list[int]:
        axes = piece.free[name]
        return [spans[axes[i]][place] if i in axes else size for i, size in enumerate(piece.given[name].shape)]

    kinds = enumerate(("min", "opt", "max"))
    return {kind: {name: shape(name, place) for name in piece.free} for place, kind in kinds}


def _spelled(shapes: Mapping[str, list[int]]) -> str:
    return ",".join(f"{name}:{'x'.join(map(str, shape))}" for name, shape in shapes.items())


def opened(path: Path, told: Mapping[str, Any]) -> Graph:
    """The graph of a file, by TensorRT, CUDA or the processor: what this ONNX Runtime has of these, in that order."""
    import onnxruntime

    known = {PROVIDER: settings(path, told["profile"]), "CUDAExecutionProvider": {"use_tf32": "0"}}
    known |= {"CPUExecutionProvider": {}}
    there = onnxruntime.get_available_providers()
    graph = _onnx.session(path, [(name, more) for name, more in known.items() if name in there])
    return Graph(run=lambda given: graph(begun(given, told["free"])), by=graph.by)


def settings(path: Path, shapes: Mapping[str, Mapping[str, list[int]]]) -> dict[str, str]:
    """What ONNX Runtime's provider is told: engines are kept beside the graph, and for which shapes they are."""
    kept = {"trt_engine_cache_enable": "True", "trt_engine_cache_path": str(path.parent / "tensorrt")}
    return kept | {f"trt_profile_{kind}_shapes": _spelled(shapes[kind]) for kind in shapes if shapes[kind]}


def begun(given: Mapping[str, Tensor], free: Mapping[str, Mapping[str, str]]) -> Mapping[str, Tensor]:
    """What a graph is given, with an earlier token that is masked where there is none: engines take no empty input."""
    past = [(name, int(axis)) for name, axes in free.items() for axis, kind in axes.items() if kind == "past"]
    if not past or all(given[name].shape[axis] for name, axis in past):
        return given
    held = {name: torch.zeros([*given[name].shape[:axis], 1, *given[name].shape[axis + 1 :]]) for name, axis in past}
    return {**given, **held, "mask": F.pad(given["mask"], (1, 0), value=0)}
