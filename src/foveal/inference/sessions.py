"""Graphs written to files and run from them: by ONNX Runtime and by OpenVINO, in float32 as they were traced."""

import contextlib
import io
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from foveal.core.errors import InputError, unknown
from foveal.inference.pieces import Piece

Graph = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]  # what each input is, by name, to what each output is
_LARGE = 1 << 30  # bytes of weights from which they stand in a file beside the graph, which may hold no more than two
_LONGEST = 1 << 20  # of an axis of any length
_NEEDS = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "openvino": ("onnx", "onnxscript", "openvino")}
_ENDS = {"onnx": "onnx", "openvino": "xml"}


def check_engine(name: str) -> None:
    """Raise InputError for an engine of another name, and where what it needs is not installed."""
    if name not in _NEEDS:
        raise unknown("engine", name, _NEEDS)
    if lacks := [part for part in _NEEDS[name] if find_spec(part) is None]:
        raise InputError(f"{name} needs {', '.join(lacks)}; pip install 'foveal[{name}]'")


def write(piece: Piece, name: str, *, engine: str, folder: Path) -> Path:
    """Trace a part and write its graph for an engine; returns its file, beside which its weights may lie."""
    path = folder / f"{name}.{_ENDS[engine]}"
    with _quiet():
        made = torch.onnx.export(
            traced(piece), dynamo=True, verbose=False, input_names=[*piece.given], output_names=[*piece.gives]
        )  # fmt: skip
    assert made is not None
    size = sum(weight.numel() * weight.element_size() for weight in piece.part.state_dict().values())
    with _place(path, engine) as place:
        made.save(str(place), external_data=size >= _LARGE)
        if engine == "openvino":
            import openvino

            openvino.save_model(openvino.Core().read_model(str(place)), str(path), compress_to_fp16=False)
    return path


@contextlib.contextmanager
def _place(path: Path, engine: str) -> Iterator[Path]:
    """Where the ONNX file goes: for good, or until another engine has read it."""
    if engine == "onnx":
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder) / "graph.onnx"


def traced(piece: Piece) -> torch.export.ExportedProgram:
    """The program of a part."""
    dims: dict[str, Any] = {
        axis: torch.export.Dim(axis, max=_LONGEST) for axes in piece.free.values() for axis in axes.values()
    }
    dims["all"] = torch.export.Dim.DYNAMIC  # the earlier and the new ones
    shapes = {one: {axis: dims[name] for axis, name in piece.free.get(one, {}).items()} for one in piece.given}
    with torch.no_grad():
        return torch.export.export(piece.part.eval(), (piece.given,), dynamic_shapes=(shapes,))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporter says of itself, of torchvision, and of what it will not take in a later version."""
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            logger.setLevel(before)


def opened(path: Path, *, engine: str) -> Graph:
    """A graph ready to run, on as many threads as torch; raises InputError for a file that holds none."""
    if not path.is_file():
        raise InputError(f"there is no graph {path}; export the model anew")
    return (_onnx if engine == "onnx" else _openvino)(path)


def _onnx(path: Path) -> Graph:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its errors have no class of their own in common
        raise InputError(f"{path} holds no graph ({str(error).splitlines()[0]}); export the model anew") from None
    names = [one.name for one in session.get_inputs()]
    gives = [one.name for one in session.get_outputs()]

    def run(given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        made = session.run(None, {name: given[name].detach().contiguous().numpy() for name in names})
        return {name: torch.from_numpy(value) for name, value in zip(gives, made, strict=True)}

    return run


def _openvino(path: Path) -> Graph:
    import openvino

    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    try:
        compiled = openvino.Core().compile_model(str(path), "CPU", settings)
    except RuntimeError as error:
        raise InputError(f"{path} holds no graph ({str(error).splitlines()[0]}); export the model anew") from None
    names = [one.any_name for one in compiled.inputs]
    request = compiled.create_infer_request()

    def run(given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        made = request.infer({name: given[name].detach().contiguous().numpy() for name in names})
        return {port.any_name: torch.from_numpy(value.copy()) for port, value in made.items()}

    return run
