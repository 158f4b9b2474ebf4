"""Known answers through graphs: what another engine says is what the model says."""

import json
import shutil

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

import foveal
from foveal.core.errors import InputError
from foveal.core.types import Batch, Pixels
from foveal.inference import exported
from foveal.inference.pieces import check

GIVEN = ("input_ids", "attention_mask", "pixel_values", "image_sizes", "image_grid_thw", "mm_token_type_ids")
SIGHT = ["connector", "head", "layers", "vision"]
GRAPHS = {
    "llava_next": SIGHT,
    "qwen3_vl": ["connector", "connector1", "deeper0_", "deeper0_1", "deeper1_", "deeper1_1", *SIGHT[1:], "vision1"],
    "blip2_opt": SIGHT,
}


@pytest.fixture(scope="module")
def both(known_answers, tmp_path_factory):
    """A system's model, the same exported, and what both are given."""
    made = {}

    def of(name, engine="onnx"):
        if (name, engine) not in made:
            known, place, folder = known_answers(name), tmp_path_factory.mktemp(name), tmp_path_factory.mktemp("out")
            save_file({key: weight.clone() for key, weight in known.weights.items()}, place / "model.safetensors")
            (place / "config.json").write_text(json.dumps(known.config))
            model = foveal.load(place)
            given = {key: known.inputs[key] for key in GIVEN if key in known.inputs}
            exported.export(model, [model.batch(**given)], folder, engine=engine)
            made[name, engine] = model, foveal.load(folder), given, folder
        return made[name, engine]

    return of


def after_a_token(side, given):
    """The logits of one more token over what the cache holds of the prompt."""
    batch = side.batch(**given)
    rows, length = batch.input_ids.shape
    cache, seen = side.model.language.cache(rows, length + 1), []
    word = 7 + torch.arange(rows)[:, None]
    places = None if batch.positions is None else batch.positions[:, -1:] + 1
    one = torch.ones_like(word, dtype=torch.bool)
    step = Batch(input_ids=word, valid=one, prompt=~one, image_slot=torch.full_like(word, -1), positions=places)
    with torch.no_grad():
        for part in (batch, step):
            seen.append(side.model(part, cache=cache, keep="last").logits)
    return seen[1]


@pytest.mark.parametrize("name", GRAPHS)
def test_logits_and_words_are_those_of_the_model(both, name):
    model, other, given, folder = both(name)
    batch = model.batch(**given)
    with torch.no_grad():
        one, two = (side.model(side.batch(**given)).logits for side in (model, other))
    torch.testing.assert_close(two[batch.valid], one[batch.valid], atol=3e-5, rtol=1e-4)
    one, two = (after_a_token(side, given) for side in (model, other))
    torch.testing.assert_close(two, one, atol=3e-5, rtol=1e-4)
    words = [side.generate(**given, max_new_tokens=6) for side in (model, other)]
    assert torch.equal(*words)
    assert sorted(json.loads((folder / "graphs.json").read_text())["graphs"]) == sorted(GRAPHS[name])


def test_rows_of_other_lengths_and_no_pictures_go_through_the_same_graphs(both):
    model, other, *_ = both("blip2_opt")
    rows = torch.randint(5, 90, (3, 4), generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[1, 1, 1, 1], [0, 1, 1, 1], [0, 0, 1, 1]])
    words = [side.generate(input_ids=rows, attention_mask=mask, max_new_tokens=5) for side in (model, other)]
    assert torch.equal(*words)


def test_openvino_says_the_same_where_it_folds_a_last_norm_away(known_answers, tmp_path):
    known = known_answers("llava_next")
    save_file({key: weight.clone() for key, weight in known.weights.items()}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(known.config))
    plain, given = foveal.load(tmp_path), {key: known.inputs[key] for key in GIVEN if key in known.inputs}
    torch.nn.init.ones_(plain.model.language.norm.weight)
    exported.export(plain, [plain.batch(**given)], tmp_path / "out", engine="openvino")
    other, valid = foveal.load(tmp_path / "out"), plain.batch(**given).valid
    with torch.no_grad():
        one, two = (side.model(side.batch(**given)).logits for side in (plain, other))
    torch.testing.assert_close(two[valid], one[valid], atol=1e-4, rtol=1e-3)


def test_openvino_says_the_same(both):
    model, other, given, folder = both("llava_next", "openvino")
    assert (folder / "layers.xml").exists() and not list(folder.glob("*.onnx"))
    with torch.no_grad():
        one, two = (side.model(side.batch(**given)).logits for side in (model, other))
    valid = model.batch(**given).valid
    torch.testing.assert_close(two[valid], one[valid], atol=1e-4, rtol=1e-3)


def test_what_is_exported_is_not_written_anew_and_says_of_what_size_it_is(both, tmp_path):
    _, other, given, _ = both("llava_next")
    with pytest.raises(InputError, match="an exported model is not written anew; copy its directory"):
        other.save(tmp_path / "anew")
    large = Pixels.whole(F.interpolate(given["pixel_values"].flatten(0, 1)[:1], scale_factor=2))
    with pytest.raises(InputError, match=r"pixels, and this model was exported for .* pixels; give pictures of such"):
        other.model.vision(large)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda folder: (folder / "head.onnx").unlink(), "there is no graph .*head.onnx; export the model anew"),
        (lambda folder: (folder / "head.onnx").write_bytes(b"no"), "head.onnx holds no graph"),
        (lambda folder: (folder / "graphs.json").write_text("{"), "graphs.json is no JSON"),
        (lambda folder: (folder / "graphs.json").write_text("[]"), "describes no graphs that this Foveal reads"),
    ],
)
def test_spoiled_files_are_told_in_a_line(both, tmp_path, spoil, said):
    folder = tmp_path / "copy"
    shutil.copytree(both("llava_next")[3], folder)
    spoil(folder)
    with pytest.raises(InputError, match=said):
        foveal.load(folder)


@pytest.mark.parametrize("wanted", [{"dtype": "bfloat16"}, {"dtype": torch.float64}])
def test_graphs_compute_in_the_precision_they_were_traced_in(both, wanted):
    with pytest.raises(InputError, match="graphs compute in float32 on the processor; leave dtype and device out"):
        foveal.load(both("llava_next")[3], **wanted)


def test_an_exported_model_stays_where_it_is_and_as_it_is(both):
    other = both("llava_next")[1]
    before = {name: weight.clone() for name, weight in other.named_parameters()}
    for moved in (lambda: other.to(torch.bfloat16), lambda: other.double(), lambda: other.to("meta")):
        with pytest.raises(InputError, match="an exported model computes in float32 on the processor, and does not"):
            moved()
    other.float().to("cpu")
    assert all(torch.equal(weight, before[name]) for name, weight in other.named_parameters())


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("mllama", "its fusion, GatedCrossAttention, keeps sight out of line with the words"),
        ("chameleon", "its fusion, Vocabulary, keeps sight out of line"),
        ("instructblip_opt", "its connector, Qformer, hears the question"),
    ],
)
def test_what_does_not_go_through_graphs_is_told(known_answers, tmp_path, name, said):
    known = known_answers(name)
    save_file({key: weight.clone() for key, weight in known.weights.items()}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(known.config))
    with pytest.raises(InputError, match=said):
        check(foveal.load(tmp_path).model)
