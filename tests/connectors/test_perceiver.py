from dataclasses import replace

import pytest
import torch

from foveal.connectors.perceiver import Perceiver, of_frames
from foveal.core.errors import InputError
from foveal.core.types import Batch, Layout, VisualTokens
from foveal.models.causal import assemble
from foveal.models.config import ModelConfig
from foveal.weights.names import Renaming, load_strict
from foveal.weights.open_flamingo import perceiver_rules

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


def test_key_heads_that_do_not_divide_the_heads_are_refused():
    with pytest.raises(InputError, match="3 kv_heads do not divide 2 heads"):
        perceiver(kv_heads=3)


def test_no_images_bring_no_tokens():
    assert perceiver()(tokens()).features.shape == (0, 8)


def video(*frames, cells=2):
    layout = Layout.of_grids([(1, cells)] * sum(frames)).filmed(frames)
    return VisualTokens.on_layout(torch.randn(layout.total, 8, generator=torch.Generator().manual_seed(1)), layout)


def test_frames_of_a_video_are_gathered_together_and_told_apart():
    visual = video(3, 1)
    blind, told = perceiver(), perceiver(frames=4)
    turned = visual.features.view(4, 2, 8)[[2, 1, 0, 3]].flatten(0, 1)
    assert told(visual).layout.counts == (3, 3)
    both = [model(visual).features for model in (blind, told)]
    other = [model(visual.with_features(turned)).features for model in (blind, told)]
    torch.testing.assert_close(both[0], other[0], atol=1e-6, rtol=1e-5)
    assert (both[1][:3] - other[1][:3]).abs().max() > 1e-3
    torch.testing.assert_close(both[1][3:], other[1][3:], atol=1e-6, rtol=1e-5)


def test_what_has_changed_is_told_of_every_token_and_nothing_of_what_stays():
    bare, told = perceiver(), perceiver(changes=True)
    told.load_state_dict(bare.state_dict(), strict=False)
    film, still = video(3, 1), tokens((1, 2), (1, 2))
    assert torch.equal(told(still).features, bare(still).features)  # pictures change in nothing
    pair = film.features.view(4, 2, 8)
    same = film.with_features(pair[[0, 0, 0, 3]].flatten(0, 1))
    assert torch.equal(told(same).features, bare(same).features)
    moved = pair + torch.stack(
        [torch.zeros(2, 8), *told.changes((pair[1:3] - pair[:2]).flatten(0, 1)).view(2, 2, 8), torch.zeros(2, 8)]
    )
    expected = bare(film.with_features(moved.flatten(0, 1)))
    torch.testing.assert_close(told(film).features, expected.features)
    assert (told(film).features - bare(film).features)[:3].abs().max() > 1e-3


def test_eight_learned_frames_serve_thirty():
    table = torch.arange(8.0)[:, None].repeat(1, 2)
    long, short = of_frames(table, video(30, cells=1)), of_frames(table, video(5, cells=1))
    torch.testing.assert_close(long[:, 0], torch.linspace(0, 7, 30))
    assert short[:, 0].tolist() == [0, 1, 2, 3, 4]
    assert of_frames(table[:1], video(3)).tolist() == [[0, 0]] * 6


def test_places_and_norms_are_told_of_tokens_as_they_come():
    visual = tokens((2, 2))
    turned = replace(visual, features=visual.features.flip(0))
    placed = perceiver(places=2, norm_in=True)
    assert (placed(visual).features - placed(turned).features).abs().max() > 1e-3
    torch.testing.assert_close(
        placed(visual).features, placed(visual.with_features(visual.features * 9 + 1)).features, atol=1e-4, rtol=1e-4
    )


def test_a_model_numbers_the_images_of_each_row():
    parts = {"features": 8, "connector": {"name": "perceiver", **SMALL, "images": 2}, "fusion": "gated_cross_attention"}
    torch.manual_seed(0)
    model = assemble(ModelConfig.parse({**parts, "language": {"name": "decoder", "vocabulary": 9, "width": 8}}))
    visual, ids = tokens((1, 2), (1, 2), (1, 2)), torch.ones(2, 3, dtype=torch.long)
    batch = Batch(
        input_ids=ids, valid=ids > 0, prompt=ids > 0, image_slot=ids * -1, visual=visual, owner=torch.tensor([0, 1, 0])
    )
    told = model.connector(replace(visual, number=torch.tensor([0, 0, 0, 0, 1, 1])))
    assert torch.equal(model.see(batch).features, told.features)
    assert not torch.equal(told.features, model.connector(visual).features)


def test_images_of_a_row_are_told_apart():
    model = perceiver(images=2)
    visual = tokens((1, 2), (1, 2), (1, 2))
    first = model(visual).features
    numbered = model(replace(visual, number=torch.tensor([0, 0, 1, 1, 0, 0]))).features
    assert (first - numbered).abs().amax(-1).view(3, 3).amax(1).gt(1e-3).tolist() == [False, True, False]
    with pytest.raises(InputError, match="a row of 3 images for a connector that tells 2 apart"):
        model(replace(visual, number=torch.tensor([0, 0, 1, 1, 2, 2])))


def known_perceiver(known, part, **settings):
    config, weights = known.config[part], {}
    renaming = Renaming(
        [
            ("resampler.latents", f"{part}.latents"),
            ("frames", f"{part}.frame_embs"),
            ("images", f"{part}.media_time_embs"),
            *perceiver_rules("resampler.", f"{part}."),
        ]
    )
    weights = {name: weight for name, weight in known.weights.items() if name.startswith(f"{part}.")}
    model = Perceiver(
        width_in=config["dim"], width_out=config["dim"], latents=config["num_latents"], depth=config["depth"],
        heads=config["heads"], head_width=config["dim_head"], factor=config["ff_mult"], **settings
    )  # fmt: skip
    ours = renaming.to_ours(weights)
    if "images" in ours:
        ours["images"] = ours["images"][:, 0]
    load_strict(model, ours, "known answers")
    return model.eval()


def test_known_answers_of_rows_of_videos(known_answers):
    known = known_answers("flamingo_perceiver")
    model, media = known_perceiver(known, "a", frames=2, images=3), known.inputs["a"]
    rows, videos, frames, cells = media.shape[:4]
    layout = Layout(counts=(cells,) * (rows * videos * frames), grids=(None,) * (rows * videos * frames))
    layout = layout.filmed((frames,) * (rows * videos))
    visual = VisualTokens.on_layout(media.flatten(0, 3), layout)
    visual = replace(visual, number=visual.image % videos)
    with torch.no_grad():
        found = model(visual).features.view(rows, videos, -1, media.shape[-1])
    torch.testing.assert_close(found, known.outputs["a.latents"], atol=1e-5, rtol=1e-5)


def test_known_answers_of_images(known_answers):
    known = known_answers("flamingo_perceiver")
    model, media = known_perceiver(known, "b"), known.inputs["b"]
    rows, images, _, cells = media.shape[:4]
    layout = Layout(counts=(cells,) * (rows * images), grids=(None,) * (rows * images))
    with torch.no_grad():
        found = model(VisualTokens.on_layout(media.flatten(0, 3), layout)).features
    torch.testing.assert_close(found.view_as(known.outputs["b"]), known.outputs["b"], atol=1e-5, rtol=1e-5)
