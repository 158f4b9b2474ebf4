"""The visual tokenizer of Ovis 2.5 against its reference's known answers, and what its parts promise."""

from dataclasses import fields

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from foveal.core.errors import InputError
from foveal.front import load
from foveal.weights.files import read_checkpoint, write_json
from foveal.weights.ovis25 import VisualTokenizer, tower_settings

EXACT = {"atol": 1e-5, "rtol": 1e-5}
SMALL = {
    **{"model_type": "siglip2_navit", "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2},
    **{"num_attention_heads": 2, "image_size": 12, "patch_size": 4, "window_size": 16},
}


@pytest.mark.parametrize("name", ["full", "window"])
@torch.no_grad()
def test_known_answers(known_answers, tmp_path, name):
    known = known_answers("ovis25_visual_tokenizer")
    whole = known.config["fullatt_block_indexes"] if name == "window" else None
    write_json(tmp_path / "config.json", {**known.config, "fullatt_block_indexes": whole})
    save_file(known.weights, tmp_path / "model.safetensors")
    made = load(tmp_path)(**known.inputs)
    for field in ("vit_features", "head_logits", "visual_tokens", "visual_embeds", "indicator_embeds"):
        torch.testing.assert_close(getattr(made, field), known.outputs[f"{name}.{field}"], **EXACT)


def tokenizer(seed=0, **config):
    torch.manual_seed(seed)
    return VisualTokenizer(config={**SMALL, **config}, entries=30, width_out=20).eval()


def patches(*grids, seed=1):
    count = sum(times * rows * columns for times, rows, columns in grids)
    values = torch.randn(count, 48, generator=torch.Generator().manual_seed(seed))
    return {"pixel_values": values, "grid_thws": torch.tensor(grids)}


@pytest.mark.parametrize("config", [{}, {"fullatt_block_indexes": "1"}, {"fullatt_block_indexes": "0|1"}])
@torch.no_grad()
def test_an_image_alone_equals_itself_among_others(config):
    model, grids = tokenizer(**config), [(1, 6, 4), (2, 2, 8), (1, 10, 6)]
    given = patches(*grids)
    every, begin, start = model(**given), 0, 0
    for grid in grids:
        count = grid[0] * grid[1] * grid[2]
        alone = model(given["pixel_values"][begin : begin + count], torch.tensor([grid]))
        own = slice(start, start + count // 4)
        torch.testing.assert_close(every.visual_embeds[own], alone.visual_embeds, **EXACT)
        begin, start = begin + count, own.stop
    assert every.visual_tokens.shape == (start, 34) and not every.visual_tokens[:, 30:].any()
    torch.testing.assert_close(every.visual_tokens.sum(1), torch.ones(start))


@torch.no_grad()
def test_a_window_sees_no_other():
    """Windows of 4 x 4 patches, in blocks of 2 x 2: what lies in another changes nothing without a whole block."""
    given = patches((1, 6, 6))
    changed = {**given, "pixel_values": given["pixel_values"].clone()}
    changed["pixel_values"][4 * 8 :] += 1  # the last block, which is a window of its own
    for whole, same in (("1", False), ("", True)):
        model = tokenizer(fullatt_block_indexes=whole or "0")
        if not whole:
            model.vision.whole = ()
        before, after = model(**given).vit_features, model(**changed).vit_features
        assert torch.equal(before[:8], after[:8]) == same
        assert not torch.equal(before[8], after[8])


@torch.no_grad()
def test_places_are_stretched_from_edge_to_edge():
    model = tokenizer()
    places = model.vision._places(model.vision.plan([(24, 8)]))
    table = model.vision.positions.view(1, 3, 3, 16).permute(0, 3, 1, 2)
    wanted = F.interpolate(table, size=(6, 2), mode="bicubic", align_corners=False)
    torch.testing.assert_close(places, wanted[0].flatten(1).T)


@pytest.mark.parametrize(
    "config", [{}, {"num_patches": 9}, {"use_rope": False, "preserve_original_pe": False, "fullatt_block_indexes": "0"}]
)
@torch.no_grad()
def test_written_back_it_is_the_same(tmp_path, config):
    model, given = tokenizer(**config), patches((1, 4, 4))
    model.save_pretrained(tmp_path)
    state = read_checkpoint(tmp_path)
    kernel = state["visual_tokenizer.vit.vision_model.embeddings.patch_embedding.weight"]
    assert kernel.shape == ((16, 48) if "num_patches" in config else (16, 3, 4, 4))
    again = load(tmp_path)
    for field in fields(again(**given)):
        assert torch.equal(getattr(again(**given), field.name), getattr(model(**given), field.name))
    again.save_pretrained(tmp_path / "again")
    for name, weight in read_checkpoint(tmp_path / "again").items():
        assert torch.equal(weight, state[name]), name


@torch.no_grad()
def test_the_normed_state_is_told_too():
    model, given = tokenizer(), patches((1, 4, 4))
    made = model(**given)
    wanted = F.layer_norm(made.vit_features.view(4, 4, 16), (16,), eps=1e-6)
    torch.testing.assert_close(made.last_hidden_state, wanted.flatten(1))


def test_what_does_not_fit_is_refused(tmp_path):
    tokenizer().save_pretrained(tmp_path)
    state = read_checkpoint(tmp_path)
    save_file({name: weight for name, weight in state.items() if name != "vte.weight"}, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match=r"holds no table of visual words \(vte.weight\)"):
        load(tmp_path)
    del state["visual_tokenizer.head.1.bias"]
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match=r"missing: visual_tokenizer\.head\.1\.bias"):
        load(tmp_path)
    with pytest.raises(InputError, match="temporal_patch_size is 2"):
        tower_settings({"temporal_patch_size": 2})
    with pytest.raises(InputError, match="window_size 16 holds no block of 2 x 2 patches of 16 pixels"):
        tower_settings({"window_size": 16, "fullatt_block_indexes": "1"})
    with pytest.raises(InputError, match="whole has 3, but the tower has 2 blocks"):
        tokenizer(fullatt_block_indexes="2")
    with pytest.raises(InputError, match="blocks of 2 x 2 on a grid of 3 x 2"):
        tokenizer()(**patches((1, 3, 2)))
