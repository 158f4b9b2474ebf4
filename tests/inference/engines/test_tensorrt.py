"""What TensorRT needs of graphs, checked without it: shapes, types and operators, and the graphs on a processor."""

import json
import shlex
import subprocess

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper
from safetensors.torch import save_file

import foveal
from foveal.cli.main import run
from foveal.core.errors import InputError
from foveal.inference.engines import tensorrt
from foveal.inference.pieces import pieces
from foveal.models.budget import unspent
from tests.cli.conftest import WORDS
from tests.inference.conftest import traceable as traceable
from tests.inference.test_exported import GIVEN
from tests.tiny import tiny_run

KINDS = ("min", "opt", "max")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Where the command has written a run, and what it told."""
    folder = tmp_path_factory.mktemp("tensorrt")
    tiny_run(WORDS).save(folder / "run")
    return folder / "out"


def test_the_command_tries_the_same_graphs_and_tells_that_tensorrt_was_not_tried(place, capsys):
    given = ["export", str(place.parent / "run"), "--to", "tensorrt", "--size", "40", "--max-new-tokens", "4"]
    assert run([*given, "--out", str(place), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["same"] and told["tried"] is (tensorrt.PROVIDER in onnxruntime.get_available_providers())
    assert told["computed_by"].endswith("CPUExecutionProvider")
    assert (place / "layers.onnx").exists()
    assert run([*given, "--out", f"{place}-again"]) == 0
    assert ("TensorRT itself was not tried" in capsys.readouterr().out) is not told["tried"]


def test_profiles_are_those_of_the_graphs_and_agree_among_themselves(place):
    graphs = json.loads((place / "graphs.json").read_text())["graphs"]
    for graph in graphs.values():
        session = onnxruntime.InferenceSession(str(place / graph["file"]), providers=["CPUExecutionProvider"])
        profile = graph["profile"]
        open_ = {one.name: one for one in session.get_inputs() if any(isinstance(size, str) for size in one.shape)}
        assert all(open_.keys() == profile[kind].keys() for kind in KINDS)
        for name, one in open_.items():
            for axis, size in enumerate(one.shape):
                least, usual, most = (profile[kind][name][axis] for kind in KINDS)
                assert 1 <= least <= usual <= most
                assert isinstance(size, str) or {least, usual, most} == {size}
        for kind in KINDS[:2] if open_ else ():
            kinds = {"tensor(float)": np.float32, "tensor(int64)": np.int64, "tensor(bool)": np.bool_}
            given = {name: np.ones(profile[kind][name], kinds[one.type]) for name, one in open_.items()}
            assert all(np.isfinite(value).all() for value in session.run(None, given))
    for shapes in graphs["layers"]["profile"].values():
        assert shapes["mask"][3] == shapes["hidden"][1] + shapes["key0"][2]


def test_the_script_names_every_graph_with_its_shapes(place):
    assert subprocess.run(["sh", "-n", str(place / "build.sh")]).returncode == 0
    graphs = json.loads((place / "graphs.json").read_text())["graphs"]
    lines = [line for line in (place / "build.sh").read_text().splitlines() if line.startswith("trtexec")]
    assert len(lines) == len(graphs)
    for line, graph in zip(lines, graphs.values(), strict=True):
        said = dict(part.removeprefix("--").split("=", 1) for part in shlex.split(line)[1:] if "=" in part)
        assert said["onnx"] == graph["file"] and said["saveEngine"].endswith(".engine")
        for kind in KINDS:
            shapes = {name: "x".join(map(str, shape)) for name, shape in graph["profile"][kind].items()}
            assert said.get(f"{kind}Shapes", "") == ",".join(f"{name}:{shape}" for name, shape in shapes.items())


def test_levels_of_visual_tokens_have_their_shapes(known_answers, tmp_path):
    known = known_answers("qwen3_vl")
    save_file({key: weight.clone() for key, weight in known.weights.items()}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(known.config))
    model = foveal.load(tmp_path)
    batch = model.batch(**{key: known.inputs[key] for key in GIVEN if key in known.inputs})
    with torch.no_grad():
        piece = dict(pieces(unspent(model.model), [batch]))["layers"]
    shapes = tensorrt.profile(piece)
    assert {name for name in shapes["min"] if name.startswith("level")} == {"level0", "level1"}
    assert [shapes[kind]["level0"][0] for kind in KINDS] == [
        2,
        len(piece.given["level0"]),
        4 * len(piece.given["level0"]),
    ]


@pytest.mark.parametrize(
    ("operator", "kind", "opset", "said"),
    [
        ("Det", TensorProto.FLOAT, 20, "TensorRT does not read the operator Det, which graph has"),
        ("Identity", TensorProto.DOUBLE, 20, "TensorRT does not read x in DOUBLE"),
        ("Identity", TensorProto.FLOAT, 21, "TensorRT does not read opset 21"),
    ],
)
def test_what_tensorrt_does_not_read_is_refused(tmp_path, operator, kind, opset, said):
    given, made = (helper.make_tensor_value_info(name, kind, [2, 2]) for name in "xy")
    graph = helper.make_graph([helper.make_node(operator, ["x"], ["y"])], "graph", [given], [made])
    path = tmp_path / "graph.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)]), str(path))
    with pytest.raises(InputError, match=said):
        tensorrt.check_read(path)


def test_the_first_earlier_token_is_one_that_nobody_sees():
    free = {"key0": {"0": "rows", "2": "past"}, "mask": {"0": "rows", "2": "length", "3": "all"}}
    given = {"key0": torch.ones(2, 1, 0, 4), "mask": torch.ones(2, 1, 3, 3, dtype=torch.bool)}
    begun = tensorrt.begun(given, free)
    assert begun["key0"].shape == (2, 1, 1, 4) and not begun["key0"].any()
    assert begun["mask"].dtype == torch.bool and begun["mask"].sum(-1).unique().tolist() == [3]
    assert not begun["mask"][..., 0].any()
    later = {**given, "key0": torch.ones(2, 1, 5, 4)}
    assert tensorrt.begun(later, free) is later


def test_the_provider_is_told_where_engines_are_kept_and_for_which_shapes(place):
    shapes = {"min": {"a": [1, 2], "b": [1]}, "opt": {"a": [1, 3], "b": [2]}, "max": {"a": [4, 5], "b": [3]}}
    assert tensorrt.settings(place / "layers.onnx", shapes) == {
        "trt_engine_cache_enable": "True",
        "trt_engine_cache_path": str(place / "tensorrt"),
        "trt_profile_min_shapes": "a:1x2,b:1",
        "trt_profile_opt_shapes": "a:1x3,b:2",
        "trt_profile_max_shapes": "a:4x5,b:3",
    }
