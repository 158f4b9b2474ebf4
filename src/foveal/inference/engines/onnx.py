"""ONNX Runtime, on the processor."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from foveal.inference.engines._onnx import WRITERS, session
from foveal.inference.engines._onnx import write as write
from foveal.inference.tracing import Graph, needed

END = "onnx"


def check(*, writes: bool) -> None:
    """Raise InputError for a package that is not installed."""
    needed("onnx", (*(WRITERS if writes else ()), "onnxruntime"), extra="onnx")


def opened(path: Path, told: Mapping[str, Any]) -> Graph:
    """The graph of a file."""
    return session(path, ["CPUExecutionProvider"])
