import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from foveal.layers.rotary import STANDARD, Rope, inverse_frequencies, rotate, tables


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
