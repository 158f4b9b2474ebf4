from dataclasses import replace

import torch

from foveal.connectors.perceiver import Perceiver
from foveal.core.types import Layout, VisualTokens

SMALL = {"latents": 3, "depth": 2, "heads": 2, "head_width": 4, "factor": 2}


def perceiver(width_in=8, width_out=8, **settings):
    torch.manual_seed(0)
    return Perceiver(width_in=width_in, width_out=width_out, **SMALL, **settings)


def tokens(*grids, width=8):
    layout = Layout.of_grids(list(grids))
    generator = torch.Generator().manual_seed(1)
    return VisualTokens.on_layout(torch.randn(layout.total, width, generator=generator), layout)


def test_every_image_brings_as_many_tokens_as_there_are_latents():
    visual = tokens((2, 2), (3, 5), (1, 1))
    made = perceiver()(visual)
    assert made.layout == Layout(counts=(3, 3, 3), grids=(None,) * 3)
    assert made.image.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert made.boxes.tolist() == [[0, 0, 1, 1]] * 9
    torch.testing.assert_close(made.mass.sum(), visual.mass.sum())


def test_ragged_images_equal_each_alone():
    model, visual = perceiver(), tokens((2, 2), (3, 5), (1, 1))
    made = model(visual)
    begins = visual.layout.offsets
    for i, grid in enumerate([(2, 2), (3, 5), (1, 1)]):
        alone = VisualTokens.on_layout(visual.features[begins[i] : begins[i + 1]], Layout.of_grids([grid]))
        torch.testing.assert_close(made.features[3 * i : 3 * i + 3], model(alone).features, atol=1e-6, rtol=1e-5)


def test_widths_that_differ_meet_before_the_latents():
    model = perceiver(width_in=6, width_out=8)
    assert model(tokens((2, 2), width=6)).features.shape == (3, 8)
    assert perceiver().map is None


def test_hidden_tokens_are_gathered_by_none():
    model, visual = perceiver(), tokens((2, 2), (1, 3))
    hidden = replace(visual, masked=torch.tensor([False, False, True, True, False, True, False]))
    made = model(hidden).features
    layout = Layout.of_grids([(1, 2), (1, 2)])
    kept = VisualTokens.on_layout(visual.features[~hidden.masked], layout)
    torch.testing.assert_close(made, model(kept).features, atol=1e-6, rtol=1e-5)
    even = tokens((1, 2), (1, 2))
    hidden = replace(even, masked=torch.tensor([True, False, False, False]))
    kept = VisualTokens.on_layout(even.features[1:], Layout.of_grids([(1, 1), (1, 2)]))
    torch.testing.assert_close(model(hidden).features, model(kept).features, atol=1e-6, rtol=1e-5)


def test_a_gated_map_may_come_first():
    model = perceiver(width_in=6, width_out=8, entry=10, activation="silu")
    assert model.map.gate.weight.shape == (10, 6) and model.map.down.weight.shape == (8, 10)
    visual = tokens((2, 2), width=6)
    entered = visual.with_features(model.map(visual.features))
    model.map = None
    expected = model(entered).features
    torch.testing.assert_close(
        perceiver(width_in=6, width_out=8, entry=10, activation="silu")(visual).features, expected
    )


def test_every_setting_makes_a_model_that_learns():
    for settings in ({"gated": True, "activation": "silu"}, {"norm": "rms"}, {"qk_norm": True}, {"kv_heads": 1}):
        model = perceiver(**settings)
        model(tokens((2, 2), (1, 3))).features.square().sum().backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters()), settings
    assert perceiver(kv_heads=1).resampler.layers[0].attention.key.weight.shape == (4, 8)
    assert perceiver(qk_norm=True, norm="rms").resampler.layers[0].attention.key_norm.weight.shape == (4,)


def test_no_images_bring_no_tokens():
    assert perceiver()(tokens()).features.shape == (0, 8)
