import pytest
import torch

from foveal.core.errors import InputError
from foveal.layers.cross_attention import CrossAttention


@pytest.fixture
def glances(monkeypatch):
    """A processor on which fewer multiplications are always faster."""
    monkeypatch.setattr("foveal.layers.cross_attention.onednn_is_twice_as_fast", lambda: False)
    monkeypatch.setattr("foveal.layers.cross_attention.amd", lambda: True)


def test_equal_to_the_formula_and_to_a_memory_kept():
    torch.manual_seed(0)
    cross = CrossAttention(width=8, heads=2, memory_width=6)
    hidden, memory = torch.randn(2, 3, 8), torch.randn(2, 5, 6)
    key, value = cross.read(memory)
    heads = cross.query(hidden).unflatten(-1, (2, 4)).transpose(1, 2)
    mixed = (heads @ key.transpose(-1, -2) / 2).softmax(-1) @ value
    expected = cross.out(mixed.transpose(1, 2).flatten(2))
    torch.testing.assert_close(cross(hidden, (key, value)), expected, atol=1e-6, rtol=1e-5)


def test_what_is_masked_is_not_seen():
    torch.manual_seed(0)
    cross = CrossAttention(width=8, heads=2)
    hidden, memory = torch.randn(2, 3, 8), torch.randn(2, 5, 8)
    mask = torch.tensor([[True] * 5, [True, True, False, False, False]])[:, None, None]
    alone = cross(hidden[1:], cross.read(memory[1:, :2]))
    torch.testing.assert_close(cross(hidden, cross.read(memory), mask=mask)[1:], alone, atol=1e-6, rtol=1e-5)


def test_the_weights_are_what_is_mixed():
    torch.manual_seed(0)
    cross = CrossAttention(width=8, heads=2, memory_width=6)
    hidden, memory = torch.randn(2, 3, 8), cross.read(torch.randn(2, 5, 6))
    mask = torch.tensor([[True] * 5, [True, True, False, False, False]])[:, None, None]
    mixed = (cross.weights(hidden, memory, mask=mask) @ memory[1]).transpose(1, 2).flatten(2)
    torch.testing.assert_close(cross.out(mixed), cross(hidden, memory, mask=mask), atol=1e-6, rtol=1e-5)


def test_key_heads_serve_several_query_heads_and_both_are_normed():
    torch.manual_seed(0)
    cross = CrossAttention(
        width=8, heads=4, inner=16, kv_heads=2, memory_width=6, bias=False, qk_norm=torch.nn.LayerNorm
    )
    hidden, memory = torch.randn(2, 3, 8), torch.randn(2, 5, 6)
    key, value = cross.read(memory)
    assert key.shape == (2, 2, 5, 4) and cross.key.bias is None
    heads = cross.query(hidden).unflatten(-1, (4, 4)).transpose(1, 2)
    heads = torch.nn.functional.layer_norm(heads, (4,))
    normed = torch.nn.functional.layer_norm(cross.key(memory).unflatten(-1, (2, 4)).transpose(1, 2), (4,))
    key, spread = normed.repeat_interleave(2, 1), value.repeat_interleave(2, 1)
    mixed = (heads @ key.transpose(-1, -2) / 2).softmax(-1) @ spread
    expected = cross.out(mixed.transpose(1, 2).flatten(2))
    torch.testing.assert_close(cross(hidden, (cross.read(memory)[0], value)), expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"heads": 5}, "5 heads do not divide a width of 12"),
        ({"heads": 3, "inner": 16}, "3 heads do not divide a width of 16"),
        ({"heads": 4, "kv_heads": 3}, "3 kv_heads do not divide 4 heads"),
    ],
)
def test_heads_that_do_not_divide_are_refused(settings, told):
    with pytest.raises(InputError, match=told):
        CrossAttention(width=12, **settings)


def test_a_glance_finds_what_a_look_finds(glances):
    torch.manual_seed(0)
    cross = CrossAttention(width=24, heads=2, memory_width=6)
    for rows in (1, 3):
        hidden, memory = torch.randn(rows, 3, 24), torch.randn(rows, 8, 6)
        mask = (torch.arange(8) < torch.tensor([5, 2, 8][:rows])[:, None])[:, None, None]
        with torch.no_grad():
            assert cross._glances(hidden, memory)
            for seen in (None, mask, torch.randn(rows, 1, 3, 8)):
                expected = cross(hidden, cross.read(memory), mask=seen)
                torch.testing.assert_close(cross.glance(hidden, memory, mask=seen), expected, atol=1e-6, rtol=1e-5)
            assert not cross._glances(hidden, memory[:, :5])
        assert not cross._glances(hidden, memory)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_glance_is_led_by_scores_of_another_precision(glances, dtype):
    torch.manual_seed(0)
    cross, leading = CrossAttention(width=24, heads=2, memory_width=6).to(dtype), torch.randn(1, 1, 3, 8)
    hidden, memory = torch.randn(1, 3, 24, dtype=dtype), torch.randn(1, 8, 6, dtype=dtype)
    with torch.no_grad():
        found, expected = cross.glance(hidden, memory, mask=leading), cross(hidden, cross.read(memory), mask=leading)
    assert found.dtype == dtype
    torch.testing.assert_close(found, expected, atol=2e-2, rtol=2e-2)


@pytest.mark.parametrize(
    ("amd", "rows", "dtype", "glances"),
    [
        (True, 8, torch.float32, True),
        (False, 8, torch.float32, False),
        (False, 2, torch.float32, True),
        (False, 2, torch.bfloat16, False),
    ],
)
def test_a_glance_of_32_queries_at_257_states_is_told_from_a_look_by_the_processor(
    monkeypatch, amd, rows, dtype, glances
):
    monkeypatch.setattr("foveal.layers.cross_attention.onednn_is_twice_as_fast", lambda: False)
    monkeypatch.setattr("foveal.layers.cross_attention.amd", lambda: amd)
    cross = CrossAttention(width=128, heads=2, memory_width=6).to(dtype)
    with torch.no_grad():
        assert cross._glances(torch.randn(rows, 32, 128), torch.randn(rows, 257, 6, dtype=dtype)) == glances
        assert cross._glances(torch.randn(rows, 16, 128), torch.randn(rows, 257, 6, dtype=dtype))


def test_no_glance_where_a_library_maps_twice_as_fast(monkeypatch):
    monkeypatch.setattr("foveal.layers.cross_attention.onednn_is_twice_as_fast", lambda: True)
    cross = CrossAttention(width=24, heads=2, memory_width=6)
    with torch.no_grad():
        assert not cross._glances(torch.randn(1, 3, 24), torch.randn(1, 8, 6))


@pytest.mark.parametrize("floating", [False, True])
def test_a_row_that_may_see_nothing_finds_nothing_by_a_glance_too(glances, floating):
    torch.manual_seed(0)
    cross = CrossAttention(width=24, heads=2)
    hidden, memory = torch.randn(2, 3, 24), torch.randn(2, 8, 24)
    mask = torch.ones(2, 1, 3, 8, dtype=torch.bool)
    mask[1, :, :2] = False
    if floating:
        mask = torch.zeros(2, 1, 3, 8).masked_fill(~mask, -torch.inf)
    with torch.no_grad():
        assert cross._glances(hidden, memory)
        found = cross.glance(hidden, memory, mask=mask)
        torch.testing.assert_close(found, cross(hidden, cross.read(memory), mask=mask), atol=1e-6, rtol=1e-5)
    assert torch.equal(found[1, 0], cross.out.bias)


def test_no_glance_past_hooks_or_off_the_cpu(glances):
    cross, heard = CrossAttention(width=24, heads=2), []
    hidden, memory = torch.randn(1, 3, 24), torch.randn(1, 8, 24)
    with torch.no_grad():
        assert cross._glances(hidden, memory) and not cross._glances(hidden.to("meta"), memory.to("meta"))
        cross.key.register_forward_pre_hook(lambda *_: heard.append("key"))
        cross.glance(hidden, memory)
        cross.key._forward_pre_hooks.clear()
        cross.value.register_forward_hook(lambda *_: heard.append("value"))
        cross.glance(hidden, memory)
    assert heard == ["key", "value"]
