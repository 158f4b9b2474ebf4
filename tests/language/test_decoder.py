"""What must hold for any decoder, whatever its weights."""

from dataclasses import replace

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from foveal.core.config import dump
from foveal.core.errors import InputError
from foveal.core.interfaces import LanguageModel
from foveal.core.lookup import build, spec
from foveal.core.types import Batch, Fan
from foveal.models.assembly import empty
from foveal.models.causal import assemble
from foveal.models.config import ModelConfig

SHAPES = {
    "heads of their own": {},
    "grouped": {"kv_heads": 2},
    "qwen2": {"kv_heads": 1, "qkv_bias": True},
    "qwen3": {"kv_heads": 2, "head_width": 12, "qk_norm": True},
    "chameleon": {"kv_heads": 2, "qk_norm": "own"},
    "swin": {"qk_norm": "own", "norm_after": True},
    "llama3": {"rope": {"scaling": "llama3", "factor": 8.0, "original": 16}},
    "opt": {"name": "opt"},
    "opt, norms last": {"name": "opt", "norm_first": False, "last_norm": False, "word_width": 20, "bias": False},
}
WORDS = 50


def config(**settings):
    language = {"name": "decoder", "vocabulary": WORDS, "width": 32, "inner": 48, "depth": 3, "deviation": 0.2}
    return ModelConfig.parse({"language": language | settings})


def fresh(**settings):
    torch.manual_seed(0)
    return assemble(config(**settings)).eval()


@pytest.fixture(params=SHAPES)
def model(request):
    return fresh(**SHAPES[request.param])


def texts(*rows, side="right", **more):
    """A batch of rows of ids, padded at a side."""
    width = max(map(len, rows))

    def padded(row, filler):
        padding = [filler] * (width - len(row))
        return padding + list(row) if side == "left" else list(row) + padding

    valid = torch.tensor([padded([True] * len(row), False) for row in rows])
    ids = torch.tensor([padded(row, 0) for row in rows])
    return Batch(input_ids=ids, valid=valid, prompt=valid, image_slot=torch.full_like(ids, -1), **more)


def logits(model, batch, **given):
    with torch.no_grad():
        return model(batch, **given).logits


ROW, OTHER = [3, 14, 15, 9, 26, 5, 35], [8, 9, 7, 9]


def same(one, other):
    torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_keeps_its_promise(model):
    assert isinstance(model.language, LanguageModel)
    assert (model.language.depth, len(list(model.language.layers))) == (3, 3)


def test_later_tokens_are_not_seen(model):
    changed = [*ROW[:4], 1, 2, 3]
    before, after = logits(model, texts(ROW)), logits(model, texts(changed))
    same(before[:, :4], after[:, :4])
    assert (before[:, 4:] - after[:, 4:]).abs().max() > 1e-2


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_and_neighbours_change_nothing(model, side):
    batch = texts(ROW, OTHER, side=side)
    together = logits(model, batch)
    for i, row in enumerate((ROW, OTHER)):
        same(together[i][batch.valid[i]], logits(model, texts(row))[0])


def test_a_full_batch_needs_no_mask_and_loses_nothing(model):
    batch = texts(ROW, ROW[::-1])
    same(logits(model, replace(batch, full=True)), logits(model, batch))


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("cuts", [(1, 2, 3, 4, 5, 6), (3,), (5, 6)])
def test_in_pieces_with_a_cache_equals_all_at_once(model, side, cuts):
    batch = texts(ROW, OTHER, side=side)
    cache = model.language.cache(2, 7)
    parts = []
    for start, end in zip((0, *cuts), (*cuts, 7), strict=True):
        pieces = {name: getattr(batch, name)[:, start:end] for name in ("input_ids", "valid", "prompt", "image_slot")}
        parts.append(logits(model, Batch(**pieces), cache=cache))
    same(torch.cat(parts, 1)[batch.valid], logits(model, batch)[batch.valid])


def test_packed_rows_equal_rows_apart(model):
    packed = texts(
        ROW + OTHER,
        segment=torch.tensor([[0] * 7 + [1] * 4]),
        positions=torch.tensor([[*range(7), *range(4)]]),
    )
    together = logits(model, packed)[0]
    same(together[:7], logits(model, texts(ROW))[0])
    same(together[7:], logits(model, texts(OTHER))[0])


def test_branches_on_a_trunk_equal_whole_sequences(model):
    trunk, branches = ROW, ([4, 5], [6, 7, 8])
    packed = texts(
        trunk + branches[0] + branches[1],
        branch=torch.tensor([[0] * 7 + [1] * 2 + [2] * 3]),
        positions=torch.tensor([[*range(7), 7, 8, 7, 8, 9]]),
    )
    together = logits(model, packed)[0]
    same(together[7:9], logits(model, texts(trunk + branches[0]))[0, 7:])
    same(together[9:], logits(model, texts(trunk + branches[1]))[0, 7:])


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_window_hides_what_lies_before_it(side):
    near, far = fresh(window=3, depth=1), fresh(window=64, depth=1)
    batch = texts(ROW, OTHER[:2], side=side)
    for end in range(4, 8):
        same(logits(near, texts(ROW))[0, end - 1], logits(far, texts(ROW[end - 3 : end]))[0, -1])
    assert (logits(near, batch)[0] - logits(far, batch)[0]).abs().max() > 1e-2
    assert logits(near, batch).isfinite().all()
    same(logits(near, replace(texts(ROW), full=True)), logits(near, texts(ROW)))


def test_a_window_moves_on_with_the_cache():
    model, batch = fresh(window=3), texts(ROW, ROW[::-1])
    cache, parts = model.language.cache(2, 7), []
    for start, end in ((0, 2), (2, 6), (6, 7)):
        pieces = {name: getattr(batch, name)[:, start:end] for name in ("input_ids", "valid", "prompt", "image_slot")}
        parts.append(logits(model, Batch(**pieces, full=True), cache=cache))
    same(torch.cat(parts, 1), logits(model, batch))


def test_branches_do_not_fit_a_window_shorter_than_their_row():
    branches = torch.tensor([[0, 0, 1, 1, 2, 2, 2]])
    with pytest.raises(InputError, match="rows of 7 tokens with branches for a window of 3"):
        logits(fresh(window=3), texts(ROW, branch=branches))
    same(logits(fresh(window=7), texts(ROW, branch=branches)), logits(fresh(), texts(ROW, branch=branches)))


def test_same_seed_same_weights_of_the_wanted_deviation():
    one, other = fresh(deviation=0.02).state_dict(), fresh(deviation=0.02).state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert one["language.embedding.weight"].std().item() == pytest.approx(0.02, rel=0.1)
    scaled = fresh(deviation=0.02, scaled=True).state_dict()
    ratio = scaled["language.layers.0.mlp.down.weight"].std() / scaled["language.layers.0.mlp.up.weight"].std()
    assert ratio.item() == pytest.approx(6**-0.5, rel=0.1)


def test_norms_may_stand_before_or_after():
    before, after = fresh(), fresh(norm_after=True)
    layer = next(iter(after.language.layers))
    stream = after.language.open(texts(ROW))
    written = layer.attention_norm(layer.attention(stream.hidden, mask=stream.mask, rotary=stream.rotary))
    hidden = stream.hidden + written
    same(layer(stream).hidden, hidden + layer.mlp_norm(layer.mlp(hidden)))
    assert (logits(before, texts(ROW)) - logits(after, texts(ROW))).abs().max() > 1e-2


def test_every_weight_receives_a_gradient(model):
    model(texts(ROW, OTHER)).logits.square().sum().backward()
    assert all(weight.grad is not None and weight.grad.any() for weight in model.parameters())


def test_activation_checkpointing_gives_the_same_gradients(model):
    def gradients(run):
        model.zero_grad()
        stream = model.language.open(texts(ROW, OTHER))
        for layer in model.language.layers:
            stream = run(layer, stream)
        stream.hidden.square().sum().backward()
        return [weight.grad.clone() for weight in model.language.layers.parameters()]

    plain = gradients(lambda layer, stream: layer(stream))
    again = gradients(lambda layer, stream: checkpoint(layer, stream, use_reentrant=False))
    assert all(torch.equal(one, other) for one, other in zip(plain, again, strict=True))


def test_half_precision_stays_near(model):
    exact, batch = logits(model, texts(ROW, OTHER)), texts(ROW, OTHER)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = logits(model, batch)
    cast = logits(model.to(torch.bfloat16), batch)
    for rough in (mixed, cast):
        assert rough.dtype == torch.bfloat16
        assert (rough.float() - exact)[batch.valid].abs().mean() < 0.05 * exact.abs().mean()


def test_an_empty_model_takes_no_memory():
    assert all(weight.is_meta for weight in empty(config()).state_dict().values())


def test_settings_survive_writing_and_reading():
    wanted = spec("language", {"name": "decoder", "vocabulary": WORDS, **SHAPES["llama3"]})
    assert spec("language", {"name": "decoder", **dump(wanted.settings)}) == wanted


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"width": 30, "heads": 4}, "4 heads do not divide a width of 30"),
        ({"heads": 4, "kv_heads": 3}, "3 kv_heads do not divide 4 heads"),
        ({"heads": 4, "head_width": 7}, "head width of 7"),
        ({"activation": "sillu"}, "did you mean 'silu'"),
        ({"rope": {"scaling": "yarn"}}, "yarn"),
        ({"qk_norm": "owm"}, "did you mean 'own'"),
        ({"widht": 4}, "did you mean 'width'"),
    ],
)
def test_settings_that_do_not_fit_are_told(settings, told):
    with pytest.raises(InputError, match=told):
        build("language", spec("language", {"name": "decoder", "vocabulary": 9, "width": 32} | settings))


def test_off_the_cpu_branches_are_told_by_a_mask():
    branch = torch.tensor([[0, 0, 1, 1, 2, 2]])
    words = torch.ones_like(branch)
    given = Batch(
        input_ids=words, valid=words > 0, prompt=words > 0, image_slot=-words, positions=torch.arange(6)[None],
        segment=0 * words, branch=branch, fan=Fan(trunk=2, branches=2, length=2),
    )  # fmt: skip
    language = fresh().language
    here, there = language.open(given), language.to("meta").open(given.to("meta"))
    assert here.fan is given.fan and here.mask is None
    assert there.fan is None and there.mask.shape == (1, 1, 6, 6)
