"""Ovis 2 against its reference: known answers, and freshly made random tiny models."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from foveal.connectors.visual_embedding_table import sampled, shares
from foveal.core.errors import InputError
from foveal.front import load
from foveal.weights.files import read_checkpoint, write_json

IMAGE, MARKS = 90, (91, 92, 93, 94, 95)
EXACT = {"atol": 1e-5, "rtol": 1e-5}


@pytest.fixture
def known(known_answers, tmp_path):
    """A fixture's model that chooses entries in one of three ways, and what it gave."""

    def make(way):
        found = known_answers("ovis2")
        vision = {**found.config["vision_config"], "tokenize_function": way}
        write_json(tmp_path / "config.json", {**found.config, "vision_config": vision})
        save_file(found.weights, tmp_path / "model.safetensors")
        outputs = {name[len(way) + 1 :]: value for name, value in found.outputs.items() if name.startswith(f"{way}.")}
        return load(tmp_path), found.inputs, outputs

    return make


@pytest.mark.parametrize("way", ["softmax", "st_argmax"])
@torch.no_grad()
def test_known_answers(known, way):
    model, given, wanted = known(way)
    output = model(**given)
    valid = given["attention_mask"].bool()
    torch.testing.assert_close(output.logits[valid], wanted["logits"][valid], **EXACT)
    torch.testing.assert_close(output.image_hidden_states, wanted["image_features"].flatten(0, 1), **EXACT)
    torch.testing.assert_close(output.visual.marks, wanted["indicator_features"], **EXACT)
    seen = model.model.vision(model.batch(**given).visual)
    torch.testing.assert_close(seen.features, wanted["vit"].flatten(0, 1), **EXACT)
    torch.testing.assert_close(output.visual.classes, shares(wanted["head_norm"].flatten(0, 1)), **EXACT)


@torch.no_grad()
def test_known_answers_with_the_noise_that_was_drawn(known):
    model, given, wanted = known("gumbel_argmax")
    batch, connector = model.batch(**given), model.model.connector
    seen = connector(model.model.look(batch))
    logits = seen.classes.log()  # but for a shift of each row, which changes no choice
    taken = sampled(logits, wanted["noise"].flatten(0, 1), 1.0)
    torch.testing.assert_close(taken, wanted["visual_tokens"].flatten(0, 1), **EXACT)
    features = taken @ connector.table.weight[: connector.entries]
    torch.testing.assert_close(features, wanted["image_features"].flatten(0, 1), **EXACT)
    said = model.model(replace(batch, seen=replace(seen, features=features))).logits
    torch.testing.assert_close(said, wanted["logits"], **EXACT)


def reference(seed, *, vocabulary=99, image=IMAGE, marks=MARKS, vision=None, text="Qwen2", **settings):
    """A random tiny Ovis 2 of transformers: tiles of 24 pixels."""
    import transformers as hf

    torch.manual_seed(seed)
    small = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    text_config = getattr(hf, f"{text}Config")(
        **{**small, "num_key_value_heads": 2, "vocab_size": vocabulary, "max_position_embeddings": 512},
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    look = {**small, "hidden_size": 24, "image_size": 24, "patch_size": 6, "vocab_size": 40, **(vision or {})}
    config = hf.Ovis2Config(
        vision_config={**look, "num_visual_indicator_tokens": len(marks)},
        text_config=text_config,
        image_token_id=image,
        visual_indicator_token_ids=list(marks),
        vocab_size=vocabulary,
        hidden_size=32,
        **settings,
    )
    model = hf.Ovis2ForConditionalGeneration(config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.normal_(std=0.3).add_(1 if "norm" in name and name.endswith("weight") else 0)
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = 2, 0
    return model


def inputs(tiles_by_row, *, tokens=16, side=24, left=True, seed=0, marks=MARKS):
    """Rows of words and images in tiles, with marks around and between these, as a processor returns them."""
    generator, rows = torch.Generator().manual_seed(seed), []
    for count in tiles_by_row:
        row = torch.randint(3, 90, (4,), generator=generator).tolist()
        if count:
            row += [marks[0]] + [IMAGE] * tokens + [marks[1 % len(marks)]]
            for tile in range(1, count):
                row += [IMAGE] * tokens + [marks[(2 + tile % 2) % len(marks)]]
            row += [marks[-1]]
        rows.append(row + torch.randint(3, 90, (3,), generator=generator).tolist())
    width = max(map(len, rows))
    ids, mask = torch.zeros(len(rows), width, dtype=torch.long), torch.zeros(len(rows), width, dtype=torch.long)
    for number, row in enumerate(rows):
        place = slice(width - len(row), width) if left else slice(0, len(row))
        ids[number, place], mask[number, place] = torch.tensor(row), 1
    given = {"input_ids": ids, "attention_mask": mask}
    most = sum(tiles_by_row)
    return {**given, "pixel_values": torch.randn(most, 3, side, side, generator=generator)} if most else given


CASES = {
    "one whole image": ([1], {"tokens": 16}, {}),
    "tiles, and a row without": ([3, 0, 2], {"tokens": 16}, {"vision": {"tokenize_function": "st_argmax"}}),
    "folded": ([2, 1], {"tokens": 4}, {"vision": {"hidden_stride": 2, "qkv_bias": True}}),
    "folded by four": ([1], {"tokens": 1}, {"vision": {"hidden_stride": 4, "mlp_bias": True, "hidden_act": "gelu"}}),
    "other sizes": (
        [1, 2],
        {"tokens": 36, "side": 30},
        {"vision": {"image_size": 30, "patch_size": 5, "hidden_size": 20, "num_hidden_layers": 3}, "text": "Qwen3"},
    ),
    "no image": ([0, 0], {}, {}),
}


@pytest.mark.parametrize("left", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_equals_transformers(tmp_path, case, left):
    tiles, shown, settings = CASES[case]
    theirs = reference(len(case), tie_word_embeddings=left, **settings)
    theirs.save_pretrained(tmp_path)
    ours, given = load(tmp_path), inputs(tiles, left=left, seed=len(case), **shown)
    real = given["attention_mask"].bool()
    led = torch.cat([torch.zeros_like(real[:, :1]), real[:, :-1]], dim=1)  # what padding predicts is undefined
    labels = torch.where(real & led, given["input_ids"], -100)
    exact = {name: value.double() if value.is_floating_point() else value for name, value in given.items()}
    with torch.no_grad():
        expected, output = (model.double()(**exact, labels=labels) for model in (theirs, ours))
    torch.testing.assert_close(output.logits[real], expected.logits[real], atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(output.loss, expected.loss, **EXACT)
    if left:
        new = theirs.generate(**given, max_new_tokens=8, do_sample=False)[:, real.shape[1] :]
        assert torch.equal(ours.generate(**given, max_new_tokens=8), new)


def test_the_noise_is_that_of_transformers(tmp_path):
    """Entries are drawn in answering too, as by the reference: from one seed, the same."""
    theirs = reference(5, vision={"tokenize_function": "gumbel_argmax", "hidden_stride": 2})
    theirs.save_pretrained(tmp_path)
    ours, given, said = load(tmp_path), inputs([2, 1], tokens=4), []
    with torch.no_grad():
        for model in (theirs, ours):
            torch.manual_seed(0)
            said.append(model(**given).logits[given["attention_mask"].bool()])
    torch.testing.assert_close(said[1], said[0], atol=2e-5, rtol=1e-5)
    assert not torch.allclose(ours(**given).logits[given["attention_mask"].bool()], said[0], atol=1e-2)


@pytest.mark.parametrize("way", ["softmax", "st_argmax"])
def test_gradients_are_those_of_transformers(tmp_path, way):
    theirs = reference(6, vision={"tokenize_function": way, "hidden_stride": 2})
    theirs.save_pretrained(tmp_path)
    ours, given = load(tmp_path).train(), inputs([2], tokens=4)
    for model in (theirs, ours):
        model(**given).logits.square().mean().backward()
    tower, connector = theirs.model.vision_tower, ours.model.connector
    pairs = [(tower.head_linear, connector.head), (tower.head_norm, connector.norm)]
    pairs += [(theirs.model.visual_embeddings_table, connector.table)]
    pairs += [(tower.transformer.embeddings.patch_embedding, ours.model.vision.patches)]
    for their, our in pairs:
        torch.testing.assert_close(our.weight.grad, their.weight.grad, atol=1e-5, rtol=1e-4)


def test_written_back_it_is_the_same_checkpoint(tmp_path):
    theirs = reference(2)
    theirs.save_pretrained(tmp_path / "there")
    load(tmp_path / "there").save_pretrained(tmp_path / "back")
    again = type(theirs).from_pretrained(tmp_path / "back")
    for name, weight in theirs.state_dict().items():
        assert torch.equal(again.state_dict()[name], weight), name


def test_a_run_of_it_answers_as_it_did(tmp_path):
    reference(3).save_pretrained(tmp_path / "there")
    ours, given = load(tmp_path / "there"), inputs([2])
    again = load(ours.save(tmp_path / "run"))
    with torch.no_grad():
        assert torch.equal(again(**given).logits, ours(**given).logits)


def test_an_odd_grid_is_filled_up_where_the_reference_fails(tmp_path):
    theirs = reference(7, vision={"hidden_stride": 2, "image_size": 30})
    theirs.save_pretrained(tmp_path)
    given = inputs([1, 1], tokens=9, side=30)
    with torch.no_grad(), pytest.raises(RuntimeError):
        theirs(**given)
    with torch.no_grad():
        seen = load(tmp_path)(**given).visual
    assert seen.layout.grids == ((3, 3), (3, 3)) and seen.mass[:9].tolist() == [4, 4, 2, 4, 4, 2, 2, 2, 1]


def test_what_does_not_agree_is_refused(tmp_path):
    reference(4).save_pretrained(tmp_path)
    model, given = load(tmp_path), inputs([2])
    with pytest.raises(InputError, match="32 image tokens in input_ids but 1 images bring 16"):
        model(**{**given, "pixel_values": given["pixel_values"][:1]})
    state = read_checkpoint(tmp_path)
    del state["model.visual_embeddings_table.weight"]
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match=r"missing: model\.visual_embeddings_table\.weight"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"hidden_size": 40}, "hidden_size is 40 but that of text_config 32"),
        ({"vocab_size": 90, "tie_word_embeddings": False}, "vocab_size is 90 but that of text_config 99"),
        ({"visual_indicator_token_ids": [3, 4]}, "2 visual_indicator_token_ids but num_visual_indicator_tokens is 5"),
        ({"vision_config": {"tokenize_function": "top"}}, "tokenize_function 'top' is not supported"),
        ({"vision_config": {"image_size": [24, 30]}}, r"image_size is \[24, 30\]"),
    ],
)
def test_a_config_that_contradicts_itself_is_refused(tmp_path, change, said):
    theirs = reference(8)
    theirs.save_pretrained(tmp_path)
    config = theirs.config.to_dict()
    vision = {**config["vision_config"], **change.get("vision_config", {})}
    write_json(tmp_path / "config.json", {**config, **change, "vision_config": vision})
    with pytest.raises(InputError, match=said):
        load(tmp_path)
