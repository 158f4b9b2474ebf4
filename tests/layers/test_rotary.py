import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from foveal.core.errors import InputError
from foveal.layers.rotary import STANDARD, Rope, axes, inverse_frequencies, rotate, tables


def test_each_pair_turns_by_position_times_frequency():
    cosines, sines = tables(torch.tensor([[5]]), inverse_frequencies(4, Rope(base=100.0)), dtype=torch.float64)
    head = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
    turned = rotate(head.view(1, 1, 1, 4), cosines, sines).flatten()
    for low, angle in ((0, 5.0), (1, 0.5)):
        a, b = head[low].item(), head[low + 2].item()
        assert turned[low].item() == pytest.approx(a * math.cos(angle) - b * math.sin(angle), abs=1e-6)
        assert turned[low + 2].item() == pytest.approx(b * math.cos(angle) + a * math.sin(angle), abs=1e-6)


@settings(deadline=None, max_examples=30)
@given(start=st.integers(0, 100), gap=st.integers(0, 50), shift=st.integers(0, 1000))
def test_scores_depend_on_the_distance_alone(start, gap, shift):
    generator = torch.Generator().manual_seed(0)
    query, key = torch.randn(2, 1, 1, 1, 16, dtype=torch.float64, generator=generator)

    def score(i, j):
        frequencies = inverse_frequencies(16, STANDARD)
        turned = [
            rotate(x, *tables(torch.tensor([[at]]), frequencies, dtype=x.dtype)) for x, at in ((query, i), (key, j))
        ]
        return (turned[0] * turned[1]).sum().item()

    assert score(start + gap, start) == pytest.approx(score(start + gap + shift, start + shift), abs=1e-3)


def test_linear_scaling_stretches_positions():
    scaled = inverse_frequencies(16, Rope(scaling="linear", factor=4.0))
    torch.testing.assert_close(scaled * 4, inverse_frequencies(16, STANDARD))


def test_llama3_keeps_fast_pairs_and_slows_down_slow_ones():
    rope = Rope(base=500000.0, scaling="llama3", factor=8.0, low=1.0, high=4.0, original=64)
    plain, scaled = inverse_frequencies(64, Rope(base=500000.0)), inverse_frequencies(64, rope)
    turns = 64 * plain / (2 * math.pi)
    torch.testing.assert_close(scaled[turns > 4], plain[turns > 4])
    torch.testing.assert_close(scaled[turns < 1], plain[turns < 1] / 8)
    between = (turns > 1) & (turns < 4)
    assert between.any()
    assert ((scaled < plain) & (scaled > plain / 8))[between].all()


def test_frequencies_are_float32_whatever_the_default():
    torch.set_default_dtype(torch.float64)
    try:
        assert inverse_frequencies(8, STANDARD).dtype == torch.float32
    finally:
        torch.set_default_dtype(torch.float32)


def test_sections_share_out_the_pairs():
    assert axes(6, Rope(sections=(1, 2, 3))).tolist() == [0, 1, 1, 2, 2, 2]
    assert axes(8, Rope(sections=(4, 2, 2), interleaved=True)).tolist() == [0, 1, 2, 0, 1, 2, 0, 0]
    with pytest.raises(InputError, match=r"rope.sections \[1, 2\] for heads of 4 pairs"):
        axes(4, Rope(sections=(1, 2)))


@pytest.mark.parametrize("interleaved", [False, True])
def test_words_turn_the_same_on_three_axes_as_on_one(interleaved):
    rope = Rope(sections=(4, 2, 2), interleaved=interleaved)
    frequencies, turns = inverse_frequencies(16, rope), axes(8, rope)
    places = torch.arange(5)[None]
    plain = tables(places, frequencies, dtype=torch.float32)
    apart = tables(places[..., None].expand(-1, -1, 3), frequencies, dtype=torch.float32, turns=turns)
    assert all(torch.equal(a, b) for a, b in zip(plain, apart, strict=True))
    with pytest.raises(InputError, match="positions on 3 axes for a language model of one"):
        tables(places[..., None].expand(-1, -1, 3), frequencies, dtype=torch.float32)


def test_known_turns_of_the_released_size(known_answers):
    known = known_answers("qwen3_vl_headline_rope")
    rope = Rope(base=known.config["rope_theta"], sections=tuple(known.config["mrope_section"]), interleaved=True)
    places = known.inputs["position_ids"].permute(1, 2, 0)
    frequencies = inverse_frequencies(128, rope)
    cosines, sines = tables(places, frequencies, dtype=torch.float32, turns=axes(64, rope))
    torch.testing.assert_close(cosines[:, 0], known.outputs["cos"], atol=1e-6, rtol=0)
    torch.testing.assert_close(sines[:, 0, :, 64:], known.outputs["sin"][..., 64:], atol=1e-6, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("length", [1, 5])
def test_what_turns_where_nothing_learns_is_what_turns_where_something_does(dtype, rows, length):
    torch.manual_seed(0)
    heads = torch.randn(rows, length, 2, 24).to(dtype).transpose(1, 2)
    places = torch.randint(0, 90, (rows, length))
    given = tables(places, inverse_frequencies(16, STANDARD), dtype=torch.float32)  # the last 8 numbers stay
    kept, learns = heads.clone(), heads.clone().requires_grad_()
    turned = rotate(heads, *given)
    expected = rotate(learns, *given)
    assert turned.dtype == expected.dtype == torch.float32
    torch.testing.assert_close(turned, expected.detach(), atol=1e-5, rtol=1e-5)
    assert torch.equal(heads, kept)
    assert rotate(heads[..., :16], *given).is_contiguous() or length == 1


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")  # of torch's own rules
def test_transforms_of_functions_see_through_the_turn():
    torch.manual_seed(0)
    heads, way = torch.randn(2, 3, 1, 4, 8), torch.randn(3, 1, 4, 8)
    angles = torch.randn(3, 1, 4, 4)
    cosines, sines = (torch.cat([part, part], dim=-1) for part in (angles.cos(), angles.sin()))
    with torch.no_grad():
        both = torch.func.vmap(lambda one: rotate(one, cosines, sines))(heads)
        torch.testing.assert_close(both[1], rotate(heads[1], cosines, sines))
        tangent = torch.func.jvp(lambda one: rotate(one, cosines, sines), (heads[0],), (way,))[1]
        torch.testing.assert_close(tangent, rotate(way, cosines, sines))
