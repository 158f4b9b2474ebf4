"""Qwen2-VL, Qwen2.5-VL and Qwen3-VL against their references: known answers, and freshly made random tiny models."""

import json

import pytest
import torch
from safetensors.torch import save_file

from foveal.core.errors import InputError
from foveal.front import load
from foveal.models.assembly import empty
from foveal.weights import qwen_vl
from foveal.weights.files import read_checkpoint, write_json

IMAGE, VIDEO, START, END = 90, 91, 92, 93
EXACT = {"atol": 1e-5, "rtol": 1e-5}
KNOWN = ["qwen2_vl", "qwen3_vl"]
KINDS = ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"]
NAMES = {"qwen2_vl": "Qwen2VL", "qwen2_5_vl": "Qwen2_5_VL", "qwen3_vl": "Qwen3VL"}


@pytest.mark.parametrize("kind", KNOWN)
def test_known_answers(known_answers, tmp_path, kind):
    known = known_answers(kind)
    write_json(tmp_path / "config.json", known.config)
    save_file(known.weights, tmp_path / "model.safetensors")
    model = load(tmp_path)
    text = known.inputs.pop("text_only_ids")
    batch = model.batch(**known.inputs)
    with torch.no_grad():
        output = model(**known.inputs, output_hidden_states=True)
        alone = model(text).logits
    valid = known.inputs["attention_mask"].bool()
    assert torch.equal(batch.positions[valid], known.outputs["position_ids"].permute(1, 2, 0)[valid])
    torch.testing.assert_close(output.logits[valid], known.outputs["logits"][valid], **EXACT)
    torch.testing.assert_close(alone, known.outputs["text_only_logits"], **EXACT)
    states = [known.outputs[name] for name in sorted(known.outputs) if name.startswith("hidden_states")]
    for mine, state in zip(output.hidden_states, states, strict=True):
        torch.testing.assert_close(mine[valid], state[valid], **EXACT)
    images = torch.cat([known.outputs["image_features.0"], known.outputs["image_features.1"]])
    torch.testing.assert_close(output.image_hidden_states, images, **EXACT)
    for number, level in enumerate(output.visual.levels):
        names = [f"deepstack_features.{number}.{image}" for image in range(2)]
        torch.testing.assert_close(level, torch.cat([known.outputs[name] for name in names]), **EXACT)
    new = known.outputs["greedy"].shape[1] - valid.shape[1]
    assert torch.equal(model.generate(**known.inputs, max_new_tokens=new), known.outputs["greedy"][:, -new:])


@pytest.mark.parametrize("kind", KNOWN)
def test_known_answers_of_every_block_of_the_tower(known_answers, tmp_path, kind):
    known = known_answers(kind)
    write_json(tmp_path / "config.json", known.config)
    save_file(known.weights, tmp_path / "model.safetensors")
    model = load(tmp_path)
    given = {name: value for name, value in known.inputs.items() if name != "text_only_ids"}
    tower, patches = model.model.vision, model.batch(**given).visual
    names = sorted(name for name in known.outputs if name.startswith("vblock"))
    tower.levels = tuple(range(1, len(names) + 1))
    order = torch.arange(len(patches.values))
    with torch.no_grad():
        seen = tower(patches)
    begin, parts = 0, []
    for times, rows, columns in patches.grids:
        cells = begin + torch.arange(times * rows * columns).view(times, rows // 2, columns // 2, 2, 2)
        parts.append(cells.transpose(2, 3).flatten())
        begin += times * rows * columns
    order = torch.cat(parts)
    for level, name in zip(seen.levels, names, strict=True):
        torch.testing.assert_close(level, known.outputs[name][order], **EXACT)


def reference(seed, kind, *, text=None, vision=None, **settings):
    """A random tiny model of transformers, with patches of 4 pixels that are merged by twos."""
    import transformers as hf

    torch.manual_seed(seed)
    words = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4}
    words |= {"num_key_value_heads": 2, "vocab_size": 99, "max_position_embeddings": 512}
    words |= {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    sight = {"depth": 3, "num_heads": 2, "patch_size": 4}
    if kind != "qwen3_vl":
        words |= {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]}}
    if kind == "qwen2_vl":
        sight |= {"embed_dim": 24, "hidden_size": 32, "mlp_ratio": 2}
    elif kind == "qwen2_5_vl":  # windows of two tokens on a side, which some of the grids do not fill
        sight |= {"hidden_size": 24, "intermediate_size": 40, "out_hidden_size": 32, "tokens_per_second": 3}
        sight |= {"window_size": 16, "fullatt_block_indexes": [1]}
    else:
        rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 2, 2], "mrope_interleaved": True}
        words |= {"head_dim": 16, "rope_parameters": rope}
        sight |= {"hidden_size": 24, "intermediate_size": 40, "out_hidden_size": 32, "num_position_embeddings": 25}
        sight |= {"deepstack_visual_indexes": [0, 2]}
    config = getattr(hf, f"{NAMES[kind]}Config")(
        **{"text_config": {**words, **(text or {})}, "vision_config": {**sight, **(vision or {})}},
        **{"image_token_id": IMAGE, "video_token_id": VIDEO}
        | {"vision_start_token_id": START, "vision_end_token_id": END, **settings},
    )
    model = getattr(hf, f"{NAMES[kind]}ForConditionalGeneration")(config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            normed = "norm" in name or "ln_q" in name
            weight.normal_(std=0.2).add_(1 if normed and name.endswith("weight") and weight.ndim == 1 else 0)
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = 2, 0
    return model


def inputs(kind, rows, *, left=True, seed=0, merge=2):
    """Rows of images and videos by their grids (of one time: an image), as a processor returns them."""
    generator = torch.Generator().manual_seed(seed)
    made, types, grids = [], [], {IMAGE: [], VIDEO: []}

    def put(ids, row):
        row += ids

    for shown in rows:
        row = torch.randint(3, 89, (3,), generator=generator).tolist()
        for times, high, wide in shown:
            word, count = (VIDEO, high * wide // merge**2) if times > 1 else (IMAGE, high * wide // merge**2)
            grids[word].append((times, high, wide))
            if kind != "qwen3_vl":
                put([START, *[word] * (times * count), END], row)
            else:
                for _ in range(times):  # each time of a video stands behind words that tell it
                    stamp = torch.randint(3, 89, (2 if times > 1 else 0,), generator=generator).tolist()
                    put([*stamp, START, *[word] * count, END], row)
            put(torch.randint(3, 89, (2,), generator=generator).tolist(), row)
        made.append(row)
        types.append([{IMAGE: 1, VIDEO: 2}.get(word, 0) for word in row])
    width = max(map(len, made))
    ids, mask, kinds = (torch.zeros(len(made), width, dtype=torch.long) for _ in range(3))
    for number, (row, told) in enumerate(zip(made, types, strict=True)):
        place = slice(width - len(row), width) if left else slice(0, len(row))
        ids[number, place], mask[number, place], kinds[number, place] = torch.tensor(row), 1, torch.tensor(told)
    given = {"input_ids": ids, "attention_mask": mask, "mm_token_type_ids": kinds.int()}
    for word, (pixels, grid) in {
        IMAGE: ("pixel_values", "image_grid_thw"),
        VIDEO: ("pixel_values_videos", "video_grid_thw"),
    }.items():
        if grids[word]:
            count = sum(times * high * wide for times, high, wide in grids[word])
            given |= {pixels: torch.randn(count, 96, generator=generator), grid: torch.tensor(grids[word])}
    if kind == "qwen2_5_vl" and grids[VIDEO]:
        given["second_per_grid_ts"] = 3 * torch.rand(len(grids[VIDEO]), generator=generator)
    return given


ROWS = {
    "one image": [[(1, 4, 6)]],
    "several, and a row without": [[(1, 4, 2), (1, 2, 2)], [], [(1, 6, 4)]],
    "a video": [[(3, 4, 6)]],
    "a long video": [[(5, 2, 2)]],  # of more times than rows or columns
    "images and videos": [[(2, 4, 4), (1, 2, 6)], [(1, 4, 4)], [(3, 2, 4), (2, 4, 2)]],
    "of odd sides": [[(1, 6, 10), (1, 2, 14)], [(2, 10, 6)]],
}


@pytest.mark.parametrize("left", [True, False])
@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("kind", KINDS)
def test_equals_transformers(tmp_path, kind, rows, left):
    theirs = reference(len(rows), kind)
    theirs.save_pretrained(tmp_path)
    ours, given = load(tmp_path), inputs(kind, ROWS[rows], left=left, seed=len(rows))
    real = given["attention_mask"].bool()
    led = torch.cat([torch.zeros_like(real[:, :1]), real[:, :-1]], dim=1)  # what padding predicts is undefined
    labels = torch.where(real & led, given["input_ids"], -100)
    with torch.no_grad():
        expected, output = (model(**given, labels=labels, output_hidden_states=True) for model in (theirs, ours))
    torch.testing.assert_close(output.logits[real], expected.logits[real], atol=5e-5, rtol=1e-5)
    torch.testing.assert_close(output.loss, expected.loss, **EXACT)
    for mine, state in zip(output.hidden_states, expected.hidden_states, strict=True):
        torch.testing.assert_close(mine[real], state[real], atol=5e-5, rtol=1e-5)
    if left:
        new = theirs.generate(**given, max_new_tokens=6, do_sample=False)[:, real.shape[1] :]
        assert torch.equal(ours.generate(**given, max_new_tokens=6), new)


CASES = [
    ("qwen2_vl", {"vision": {"spatial_merge_size": 1, "hidden_act": "gelu"}, "tie_word_embeddings": True}),
    (
        "qwen2_5_vl",
        {
            "vision": {"spatial_merge_size": 1, "window_size": 11, "fullatt_block_indexes": [0, 7]},
            "text": {"num_key_value_heads": 1},
            "tie_word_embeddings": True,
        },
    ),
    (
        "qwen2_5_vl",
        {
            "vision": {"spatial_merge_size": 1, "window_size": 4, "fullatt_block_indexes": [], "hidden_act": "gelu"},
            "text": {"num_key_value_heads": 4, "rms_norm_eps": 1e-3},
        },
    ),
    (
        "qwen3_vl",
        {
            "vision": {"deepstack_visual_indexes": [2, 0, 1], "spatial_merge_size": 1},
            "text": {"attention_bias": True, "num_hidden_layers": 4},
        },
    ),
]


@pytest.mark.parametrize(("kind", "settings"), CASES)
def test_other_settings_equal_transformers(tmp_path, kind, settings):
    theirs = reference(7, kind, **settings)
    theirs.save_pretrained(tmp_path)
    given = inputs(kind, [[(1, 3, 2)], [(2, 1, 4)]], merge=1)
    real = given["attention_mask"].bool()
    with torch.no_grad():
        torch.testing.assert_close(
            load(tmp_path)(**given).logits[real], theirs(**given).logits[real], atol=5e-5, rtol=1e-5
        )


@pytest.mark.parametrize("kind", KINDS)
def test_given_positions_equal_transformers(tmp_path, kind):
    theirs = reference(8, kind)
    theirs.save_pretrained(tmp_path)
    given = inputs(kind, [[(1, 4, 4)]])
    places = torch.randint(0, 30, (3, *given["input_ids"].shape), generator=torch.Generator().manual_seed(0))
    words = torch.arange(places.shape[2])[None, None]
    with torch.no_grad():
        for positions in (places, torch.cat([words, places])):
            expected = theirs(**given, position_ids=positions).logits
            torch.testing.assert_close(load(tmp_path)(**given, position_ids=positions).logits, expected, **EXACT)


@pytest.mark.parametrize("kind", KINDS)
def test_written_back_it_is_the_same_checkpoint(tmp_path, kind):
    theirs = reference(3, kind)
    theirs.save_pretrained(tmp_path / "there")
    ours = load(tmp_path / "there")
    ours.save_pretrained(tmp_path / "back")
    again = type(theirs).from_pretrained(tmp_path / "back")
    for name, weight in theirs.state_dict().items():
        assert torch.equal(again.state_dict()[name], weight), name
    given = inputs(kind, [[(1, 4, 4)]])
    ours.save(tmp_path / "run")
    assert torch.equal(load(tmp_path / "run")(**given).logits, ours(**given).logits)


def test_what_does_not_belong_together_is_told(tmp_path):
    reference(4, "qwen3_vl").save_pretrained(tmp_path)
    ours = load(tmp_path)
    given = inputs("qwen3_vl", [[(1, 4, 4), (1, 2, 4)]])
    with pytest.raises(InputError, match="pixel_values of 20 patches but image_grid_thw of 24"):
        ours(**{**given, "pixel_values": given["pixel_values"][:20]})
    with pytest.raises(InputError, match="pixel_values without image_grid_thw"):
        ours(**{**given, "image_grid_thw": None})
    with pytest.raises(InputError, match="image_grid_thw without pixel_values"):
        ours(**{**given, "pixel_values": None})
    with pytest.raises(InputError, match="patches of 90 values for a vit that reads 96"):
        ours(**{**given, "pixel_values": given["pixel_values"][:, :90]})
    with pytest.raises(InputError, match=r"the grid of image 0 is 3 x 8"):
        ours(**{**given, "image_grid_thw": torch.tensor([[1, 3, 8]])})
    with pytest.raises(InputError, match="image 2 has a grid of 1 x 0 x 4 patches"):
        ours(**{**given, "image_grid_thw": torch.tensor([[1, 4, 4], [1, 2, 4], [1, 0, 4]])})
    apart = inputs("qwen3_vl", [[(1, 4, 4)], [(1, 2, 4)]])
    with pytest.raises(InputError, match="image 1 brings 4 tokens, which begin in row 0 of input_ids and end in row 1"):
        ours(**{**apart, "image_grid_thw": apart["image_grid_thw"].flip(0)})
    with pytest.raises(InputError, match=r"image_grid_thw is int64 \[3\]; give whole numbers \[images, 3\]"):
        ours(**{**given, "image_grid_thw": given["image_grid_thw"][0]})
    with pytest.raises(InputError, match=r"image_grid_thw is float32 \[2, 3\]; give whole numbers"):
        ours(**{**given, "image_grid_thw": given["image_grid_thw"].float()})
    film = inputs("qwen3_vl", [[(1, 4, 4), (2, 2, 4)]])
    with pytest.raises(InputError, match="patches of 90 values of images and 96 of videos"):
        ours(**{**film, "pixel_values": film["pixel_values"][:, :90]})
    words = given["input_ids"].masked_fill(given["input_ids"] == IMAGE, 5)
    with pytest.raises(InputError, match="0 image tokens in input_ids but 2 images bring 6"):
        ours(**{**given, "input_ids": words})


def test_other_weights_and_settings_are_refused(tmp_path):
    reference(5, "qwen3_vl").save_pretrained(tmp_path)
    state = read_checkpoint(tmp_path)
    del state["model.visual.deepstack_merger_list.1.norm.weight"]
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match=r"missing: model\.visual\.deepstack_merger_list\.1\.norm\.weight"):
        load(tmp_path)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("part", "changed", "told"),
    [
        ("vision_config", {"patch_size": [4, 8]}, r"vision_config.patch_size is \[4, 8\]"),
        ("vision_config", {"patch_size": 0}, "vision_config.patch_size is 0; give 1 or more"),
        ("vision_config", {"spatial_merge_size": -2}, "vision_config.spatial_merge_size is -2; give 1 or more"),
        (
            "text_config",
            {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 1, 1]}},
            r"mrope_section \[1, 1, 1, 1\] has 4 parts for 3 axes",
        ),
    ],
)
def test_sizes_that_cannot_be_are_told(kind, part, changed, told):
    config = reference(6, kind).config.to_dict()
    config[part] |= changed
    with pytest.raises(InputError, match=told):
        qwen_vl.model_config(config)


def test_windows_and_widths_that_cannot_be_are_told():
    config = reference(6, "qwen2_5_vl").config.to_dict()
    config["vision_config"]["window_size"] = 7
    with pytest.raises(InputError, match="window_size 7 holds no block of 2 x 2 patches of 4 pixels; give 8 or more"):
        qwen_vl.model_config(config)
    config["vision_config"] |= {"window_size": 16, "out_hidden_size": 40}
    with pytest.raises(InputError, match=r"vision_config.out_hidden_size is 40 but text_config.hidden_size 32"):
        qwen_vl.model_config(config)


def test_seconds_are_told_of_each_video_where_they_count(tmp_path):
    reference(4, "qwen2_5_vl").save_pretrained(tmp_path / "timed")
    reference(4, "qwen2_vl").save_pretrained(tmp_path / "counted")
    ours, given = load(tmp_path / "timed"), inputs("qwen2_5_vl", [[(3, 2, 4), (1, 2, 2), (2, 2, 2)]])
    times = [
        ours.batch(**{**given, "second_per_grid_ts": told}).positions[0, :, 0].unique().tolist()
        for told in (
            torch.tensor([2.5, 1.0]),
            [2.5, 1.0],
            None,
        )
    ]
    assert times[0] == times[1] and {4, 4 + 7, 4 + 15} <= {*times[0]} and {4, 7, 10} <= {*times[2]}
    for told in (torch.ones(1), [1.0, float("nan")], [1.0, -1.0]):
        with pytest.raises(
            InputError, match=r"second_per_grid_ts is \[1.0.* but video_grid_thw has 2 videos; give both"
        ):
            ours.batch(**{**given, "second_per_grid_ts": told})
    with pytest.raises(InputError, match="this checkpoint counts the frames of videos; leave them out"):
        load(tmp_path / "counted").batch(**given)


@pytest.mark.parametrize("kind", KINDS)
def test_a_head_of_its_own_is_read_where_the_text_alone_is_tied(tmp_path, kind):
    theirs = reference(5, kind, tie_word_embeddings=False)
    theirs.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["text_config"]["tie_word_embeddings"] = True
    write_json(tmp_path / "config.json", config)
    given = inputs(kind, [[(1, 4, 4)]])
    with torch.no_grad():
        wanted = type(theirs).from_pretrained(tmp_path).eval()(**given).logits
        torch.testing.assert_close(load(tmp_path)(**given).logits, wanted, atol=5e-5, rtol=1e-5)


def test_a_flat_config_and_names_of_either_layout_are_the_same(tmp_path):
    reference(3, "qwen2_5_vl").save_pretrained(tmp_path / "new")
    config, state = json.loads((tmp_path / "new" / "config.json").read_text()), read_checkpoint(tmp_path / "new")
    text, vision = config.pop("text_config"), {**config.pop("vision_config"), "model_type": "qwen2_5_vl"}
    rope = text.pop("rope_parameters")
    old = {**text, **config, "vision_config": vision, "rope_theta": rope["rope_theta"]}
    (tmp_path / "old").mkdir()
    write_json(
        tmp_path / "old" / "config.json",
        {**old, "rope_scaling": {"type": "mrope", "mrope_section": rope["mrope_section"]}},
    )
    there = any(name.startswith("model.visual.") for name in state)  # whichever layout transformers writes
    language = ("model.language_model.", "model.") if there else ("model.", "model.language_model.")
    visual = ("model.visual.", "visual.") if there else ("visual.", "model.visual.")
    renamed = {name.replace(*(visual if "visual." in name else language), 1): weight for name, weight in state.items()}
    assert len(renamed.keys() - state.keys()) == len(state) - 1  # all but the head
    save_file(renamed, tmp_path / "old" / "model.safetensors")
    given = inputs("qwen2_5_vl", [[(1, 4, 4), (2, 2, 4)]])
    assert torch.equal(load(tmp_path / "old")(**given).logits, load(tmp_path / "new")(**given).logits)


@pytest.mark.parametrize("kind", KINDS)
def test_the_default_config_makes_a_model_of_the_references_size(kind):
    import transformers as hf

    settings = getattr(hf, f"{NAMES[kind]}Config")()
    if kind == "qwen2_vl":
        settings.vision_config.hidden_size = settings.text_config.hidden_size
    else:
        settings.vision_config.out_hidden_size = settings.text_config.hidden_size
    config = settings.to_dict()
    with torch.device("meta"):
        theirs = getattr(hf, f"{NAMES[kind]}ForConditionalGeneration")(settings)
    ours = empty(qwen_vl.model_config(config)).state_dict()
    shapes = {name: weight.shape for name, weight in qwen_vl.renaming(config).to_theirs(ours).items()}
    assert shapes == {name: weight.shape for name, weight in theirs.state_dict().items()}
