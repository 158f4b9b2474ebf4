"""FlashAttention over a compressed model equals SDPA over it: padding, gaps in positions, caches, later turns."""

import pytest
import torch

import foveal
from foveal.core.errors import InputError
from tests.interop import flash, tiny
from tests.interop.test_compress import BUDGET, ROWS, told

every_family = pytest.mark.parametrize("kind", tiny.FAMILIES)
BOTH = ("sdpa", flash.NAME)


@pytest.fixture(autouse=True)
def called():
    with torch.no_grad(), flash.at_hand() as called:
        yield called


@every_family
@pytest.mark.parametrize("rows", [ROWS, [[1]]])
@pytest.mark.parametrize("left", [True, False])
def test_a_cut_prompt(kind, rows, left, called):
    model = foveal.compress(tiny.model(kind, seed=2), budget=BUDGET)
    given, made = tiny.prompt(model, rows, left=left, seed=3), []
    for name in BOTH:
        model.set_attn_implementation(name)
        logits = model(**given).logits
        made.append(logits[model.foveal.last.source >= 0])
        assert model.foveal.last.after < model.foveal.last.before
    assert called
    torch.testing.assert_close(*made, atol=2e-5, rtol=1e-5)


@every_family
def test_writing_on(kind, called):
    model, made = foveal.compress(tiny.model(kind, seed=3), budget=BUDGET), []
    given = tiny.prompt(model, ROWS, seed=4)
    for name in BOTH:
        model.set_attn_implementation(name)
        made.append(told(model, given))
    assert called and torch.equal(made[0][0], made[1][0])
    torch.testing.assert_close(made[0][1], made[1][1], atol=2e-5, rtol=1e-5)


@every_family
@pytest.mark.parametrize("rows", [([0],), ([0], [2])])
def test_a_second_picture_after_what_is_cached(kind, rows, called):
    """Positions with gaps, fewer queries than keys: neither several sequences nor the queries alone."""
    model, made = foveal.compress(tiny.model(kind, seed=4), budget=BUDGET, strategy="random"), []
    first, second = tiny.prompt(model, rows, seed=5), tiny.prompt(model, rows[::-1], seed=7)
    after = first["input_ids"].shape[1]
    second["attention_mask"] = torch.cat([first["attention_mask"], second["attention_mask"]], dim=1)
    if kind.startswith("qwen"):
        whole = {name: torch.cat([first[name], second[name]], dim=1) for name in ("input_ids", "mm_token_type_ids")}
        grids = [first["image_grid_thw"], second["image_grid_thw"]]
        whole["image_grid_thw"] = torch.stack(grids, dim=1).flatten(0, 1)  # row by row
        positions, _ = model.model.get_rope_index(**whole, attention_mask=second["attention_mask"])
        second["position_ids"] = positions[..., after:]
    for name in BOTH:
        model.set_attn_implementation(name)
        cache = model(**first, use_cache=True).past_key_values
        logits = model(**second, past_key_values=cache).logits
        made.append(logits[model.foveal.last.source >= 0])
    assert called
    torch.testing.assert_close(*made, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["llava", "internvl"])
def test_packed_rows_stay_apart(kind, called):
    model = foveal.compress(tiny.model(kind, seed=4), budget=BUDGET, strategy="random")
    model.set_attn_implementation(flash.NAME)
    rows = [tiny.prompt(model, [[0]], seed=5), tiny.prompt(model, [[1]], seed=7)]
    packed = {name: torch.cat([row[name] for row in rows], dim=1) for name in ("input_ids",)}
    packed["pixel_values"] = torch.cat([row["pixel_values"] for row in rows])
    packed["position_ids"] = torch.cat([torch.arange(row["input_ids"].shape[1]) for row in rows])[None]
    alone = [model(**row).logits for row in rows]
    torch.testing.assert_close(model(**packed).logits, torch.cat(alone, dim=1), atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("window", [10, 60, 4096])
def test_a_second_picture_behind_a_window(window, called):
    vision = tiny.hf.CLIPVisionConfig(**tiny.SMALL, image_size=24, patch_size=4)
    text = tiny.hf.MistralConfig(**tiny.TEXT, sliding_window=window)
    torch.manual_seed(4)
    config = tiny.hf.LlavaConfig(vision_config=vision, text_config=text, image_token_id=tiny.IMAGE)
    model = foveal.compress(tiny.hf.LlavaForConditionalGeneration(config).eval(), budget=BUDGET)
    first, second = tiny.prompt(model, [[0]], seed=5), tiny.prompt(model, [[0]], seed=7)
    second["attention_mask"] = torch.cat([first["attention_mask"], second["attention_mask"]], dim=1)
    made = []
    for name in BOTH:
        model.set_attn_implementation(name)
        if window == 10:
            with pytest.raises(InputError, match="47 tokens, and layers that look back over 10"):
                model(**first)
            continue
        cache = model(**first, use_cache=True).past_key_values
        if window == 60:
            with pytest.raises(InputError, match="94 tokens, and layers that look back over 60"):
                model(**second, past_key_values=cache)
            continue
        made.append(model(**second, past_key_values=cache).logits)
    assert len(made) == (2 if window == 4096 else 0)
    if made:
        torch.testing.assert_close(*made, atol=2e-5, rtol=1e-5)
