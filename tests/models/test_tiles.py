"""Images in tiles through a whole model: what is planned comes, alone as in a batch, and all of it learns."""

from dataclasses import replace

import pytest
import torch

from foveal.core.errors import InputError
from foveal.core.lookup import build, spec
from foveal.core.types import IGNORE, Batch, Cut, Pixels
from foveal.layers.field import field
from foveal.models import causal
from foveal.models.budget import budgeted
from foveal.models.config import ModelConfig
from foveal.models.tiles import choosable
from foveal.preprocess.tiling import Tiling
from tests.models.test_contract import open_gates, small

CUTS = (
    Cut(tile=(32, 32), size=(60, 90), grid=(2, 3), padded=True),
    Cut(tile=(32, 32), size=(9, 9)),
    Cut(tile=(32, 32), size=(40, 40), grid=(1, 2), view="last", padded=True),
)
RASTER = {"order": "raster", "newline": True, "most": 3}
TILES = {"newline": True, "comma": True, "positions": [2, 3]}


def model_of(connector, mosaic, *, vision="vit", fusion="prefix"):
    torch.manual_seed(0)
    language = {"name": "decoder", "vocabulary": 44, "width": 16, "depth": 2, "heads": 2, "inner": 24, "context": 256}
    parts = {"vision": small(vision), "connector": small(connector), "fusion": small(fusion), "language": language}
    return causal.assemble(ModelConfig.parse({**parts, "mosaic": mosaic})).eval()


def batch_of(model, cuts=CUTS):
    layout = model.plan(cuts)
    places = [begin + i for begin, count in zip(layout.offsets, layout.places, strict=False) for i in range(count)]
    slots = torch.full((1, len(places) + 4), -1)
    slots[0, 1 : 1 + len(places)] = torch.tensor(places)
    ids = torch.randint(1, 20, slots.shape, generator=torch.Generator().manual_seed(0))
    valid = torch.ones_like(ids, dtype=torch.bool)
    tiles = [
        torch.randn(cut.tiles, 3, *cut.tile, generator=torch.Generator().manual_seed(sum(cut.size))) for cut in cuts
    ]
    high, wide = (max(cut.tile[axis] for cut in cuts) for axis in (0, 1))
    room = [torch.nn.functional.pad(some, (0, wide - some.shape[3], 0, high - some.shape[2])) for some in tiles]
    return Batch(
        input_ids=ids,
        valid=valid,
        prompt=valid,
        image_slot=slots,
        visual=Pixels.cut(torch.cat(room), tuple(cuts)),
        owner=torch.zeros(len(cuts), dtype=torch.long),
        labels=torch.where(slots < 0, ids, IGNORE),
    )


@pytest.mark.parametrize("fusion", ["prefix", "gated_cross_attention"])
@pytest.mark.parametrize(
    ("connector", "mosaic"),
    [
        *[(one, RASTER) for one in ("mlp", "conv_mlp", "pixel_shuffle", "average_pool", "window_concat", "placed")],
        *[(one, TILES) for one in ("linear", "perceiver", "pixel_shuffle")],
        ("mlp", None),
    ],
)
def test_what_is_planned_comes_and_learns(connector, mosaic, fusion):
    model = model_of(connector, mosaic, fusion=fusion)
    open_gates(model)
    batch = batch_of(model)
    output = model(batch, keep="labelled")
    assert output.visual.layout.counts == model.plan(CUTS).counts
    assert len(output.visual.features) == len(output.visual.boxes) == output.visual.layout.total
    assert output.visual.boxes.min() >= 0 and output.visual.boxes.max() <= 1
    output.logits.logsumexp(-1).sum().backward()
    weights = [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]
    assert [name for name, weight in weights if weight.grad is None or not weight.grad.abs().sum() > 0] == []


@pytest.mark.parametrize("mosaic", [RASTER, TILES])
def test_an_image_alone_equals_itself_in_a_batch(mosaic):
    model = model_of("mlp", mosaic)
    with torch.no_grad():
        both = model.see(batch_of(model))
        for number, cut in enumerate(CUTS):
            alone = model.see(batch_of(model, [cut]))
            own = slice(both.layout.offsets[number], both.layout.offsets[number + 1])
            torch.testing.assert_close(both.features[own], alone.features, atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(both.boxes[own], alone.boxes)


@pytest.mark.parametrize("vision", ["vit", "native_vit"])
def test_tiles_of_several_sizes_are_seen_at_their_own(vision):
    """Slices of LLaVA-UHD: the same as each image alone, whatever fills the smaller ones up."""
    cuts = [Cut(tile=(32, 16), size=(90, 40), grid=(2, 1)), Cut(tile=(16, 32), size=(20, 60)), CUTS[1]]
    model = model_of("linear", {"newline": True}, vision=vision)
    with torch.no_grad():
        both = model.see(batch_of(model, cuts))
        assert both.layout == model.plan(cuts)
        for number, cut in enumerate(cuts):
            own = slice(both.layout.offsets[number], both.layout.offsets[number + 1])
            alone = model.see(batch_of(model, [cut]))
            torch.testing.assert_close(both.features[own], alone.features, atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(both.boxes[own], alone.boxes)


OWN = (
    Cut(tile=(32, 16), size=(90, 40), grid=(2, 2)),
    Cut(tile=(16, 32), size=(20, 60)),
    Cut(tile=(32, 16), size=(30, 10)),
)


def deep_model(mosaic, vision="vit", levels=(1, 2)):
    torch.manual_seed(0)
    language = {"name": "decoder", "vocabulary": 44, "width": 16, "depth": 3, "heads": 2, "inner": 24, "context": 256}
    parts = {"vision": {**small(vision), "levels": list(levels)}, "levels": "mlp", "connector": "linear"}
    fusion = {"name": "deepstack", "after": [0, 1]}
    model = causal.assemble(ModelConfig.parse({**parts, "fusion": fusion, "language": language, "mosaic": mosaic}))
    return model.eval()


@pytest.mark.parametrize("vision", [("vit", (1, 2)), ("efficientnet_lite", (16, 8))])
@pytest.mark.parametrize(("mosaic", "cuts"), [(None, OWN), (None, CUTS), (RASTER, CUTS), (RASTER, OWN), (TILES, OWN)])
def test_every_level_comes_in_tiles(vision, mosaic, cuts):
    """As planned, alone as in a batch, token by token as at once; and each level's connector learns."""
    model = deep_model(mosaic, *vision)
    batch = batch_of(model, cuts)
    with torch.no_grad():
        seen = model.see(batch)
        assert seen.layout.counts == model.plan(cuts).counts
        assert [level.shape for level in seen.levels] == [seen.features.shape] * 2
        for number, cut in enumerate(cuts):
            own, alone = slice(*seen.layout.offsets[number : number + 2]), model.see(batch_of(model, [cut]))
            for one, other in zip((seen.features, *seen.levels), (alone.features, *alone.levels), strict=True):
                torch.testing.assert_close(one[own], other, atol=1e-5, rtol=1e-4)
        whole = model(batch).logits
        cache, length = model.language.cache(1, batch.input_ids.shape[1]), batch.input_ids.shape[1]
        for part in (slice(0, length - 2), slice(length - 2, length - 1), slice(length - 1, length)):
            names = ("input_ids", "valid", "prompt", "image_slot", "labels")
            here = {name: getattr(batch, name)[:, part] for name in names}
            here |= {} if part.start == 0 else {"visual": None, "owner": batch.owner[:0]}
            torch.testing.assert_close(
                model(replace(batch, **here), cache=cache).logits, whole[:, part], atol=1e-5, rtol=1e-5
            )
    model(batch, keep="labelled").logits.logsumexp(-1).sum().backward()
    weights = [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]
    assert [name for name, weight in weights if weight.grad is None or not weight.grad.any()] == []


@torch.no_grad()
@pytest.mark.parametrize("cover", [0.4, 1.0])
@pytest.mark.parametrize("mosaic", [RASTER, TILES])
def test_levels_share_the_cut_of_tiles_under_a_budget(mosaic, cover):
    """Read one by one as all at once, alone as in a batch, laid out for the budget or for all."""
    model = deep_model(mosaic)
    view = budgeted(model, 3, cover=cover)

    def asked(whom, cuts=CUTS):
        made = batch_of(whom, cuts)
        return replace(made, input_ids=torch.full_like(made.input_ids, 5))

    batch = asked(view)
    seen = view.see(batch)
    assert seen.layout.counts == view.plan(CUTS).counts == (3, 3, 3)
    assert len(seen.levels) == 2 and all(level.any() for level in seen.levels)
    alone = [view.see(asked(view, [cut])) for cut in CUTS]
    ready = view.see(replace(batch, visual=replace(model.vision(batch.visual), cuts=CUTS)))
    for other in ([ready], [view.spent(asked(model)).seen], alone):
        parts = zip(*((one.features, *one.levels) for one in other), strict=True)
        for one, same in zip((seen.features, *seen.levels), parts, strict=True):
            torch.testing.assert_close(one, torch.cat(same), atol=1e-5, rtol=1e-5)
    assert view(batch).logits.isfinite().all()


def test_connectors_that_leave_other_numbers_of_tokens_are_told():
    model = deep_model(None)
    model.connector = build("connectors", spec("connectors", "pixel_shuffle"), width_in=16, width_out=16)
    with pytest.raises(InputError, match="the connector leaves 11 visual tokens and that of the levels 44; give model"):
        model.see(batch_of(model))


def test_its_config_keeps_the_mosaic_and_its_weights():
    model = model_of("mlp", TILES)
    again = causal.assemble(ModelConfig.parse(model.config.dump()))
    again.load_state_dict(model.state_dict())
    assert again.config == model.config
    assert {name for name in model.state_dict() if name.startswith("joined")} == {
        *("joined.newline", "joined.comma", "joined.rows", "joined.columns", "joined.view")
    }
    assert not any(name.startswith("joined") for name in model_of("mlp", None).state_dict())


def test_what_cannot_be_seen_in_tiles_is_told():
    model = model_of("qformer", None)
    hearing = model_of("qformer", None)
    with pytest.raises(InputError, match="1 of 2 images are cut into tiles; cut all of a batch, or none"):
        model.plan([(32, 32), CUTS[0]])
    with pytest.raises(InputError, match="unknown key"):
        ModelConfig.parse({"language": "decoder", "mosaic": {"newlines": True}})
    hearing.connector.query = lambda batch: None
    with pytest.raises(InputError, match="hears the question sees whole images; leave processor"):
        hearing.see(batch_of(hearing))


@pytest.mark.parametrize(
    ("size", "grid", "tokens"),
    [((336, 336), (0, 0), 65), ((1008, 672), (3, 2), 454), ((672, 1008), (2, 3), 454), ((100, 2000), (1, 3), 259)],
)
def test_slices_of_any_shape_bring_a_fixed_number_of_tokens(size, grid, tokens):
    """LLaVA-UHD: 64 of the view and of each slice, a comma between two of a row, a newline at its end."""
    settings = {"name": "perceiver", "latents": 64, "depth": 1, "heads": 2, "head_width": 8}
    model = model_of("linear", {"newline": True, "comma": True})
    model.connector = build("connectors", spec("connectors", settings), width_in=16, width_out=16)
    cut = Tiling(kind="uhd", tile=336, patch=16, most=6)(size).cut
    assert cut.grid == grid
    assert model.plan([cut]).counts == (tokens,)


def under_a_budget(budget, *, cover, strategy="foveal"):
    model = model_of("mlp", RASTER)
    settings = {"cover": cover} if strategy == "foveal" else {}
    return model, budgeted(model, budget, strategy, **settings)


@pytest.mark.parametrize("strategy", ["foveal", "random", "grid"])
def test_tiles_lie_on_one_fine_grid_under_a_budget(strategy):
    model, view = under_a_budget(3, cover=1.0, strategy=strategy)
    assert view.plan(CUTS).counts == (3, 3, 3)
    with torch.no_grad():
        anew = view.spent(batch_of(model))
        batch = replace(batch_of(view), input_ids=anew.input_ids)
        seen = view.see(batch)
        assert seen.layout.counts == (3, 3, 3) and torch.isfinite(seen.features).all()
        torch.testing.assert_close(anew.seen.features, seen.features)
        assert torch.equal(anew.image_slot, batch.image_slot)
        torch.testing.assert_close(model(anew).logits, view(batch).logits, atol=1e-5, rtol=1e-5)
        for number, cut in enumerate(CUTS):
            one = batch_of(view, [cut])
            words = one.input_ids.masked_scatter(one.image_slot < 0, anew.input_ids[anew.image_slot < 0])
            mine = view.see(replace(one, input_ids=words)).features
            torch.testing.assert_close(mine, seen.features[3 * number : 3 * number + 3], atol=1e-5, rtol=1e-5)


def test_who_keeps_all_tokens_leaves_images_as_they_are_joined():
    model = model_of("mlp", RASTER)
    batch = batch_of(model)
    for strategy, settings in (("all", {}), ("fastv", {"layer": 1}), ("pyramid_drop", {"stages": 2})):
        view = budgeted(model, 30, strategy, **settings)
        assert view.plan(CUTS) == model.plan(CUTS)
        with torch.no_grad():
            assert torch.equal(view.see(batch).features, model.see(batch).features)
            logits = view(batch).logits
            assert strategy != "all" or torch.equal(logits, model(batch).logits)


def test_a_budget_of_all_changes_nothing():
    model, view = under_a_budget(999, cover=0.5)
    with torch.no_grad():
        assert view.plan(CUTS) == model.plan(CUTS)
        assert torch.equal(view(batch_of(view)).logits, model(batch_of(model)).logits)


def test_a_budget_takes_a_batch_with_the_tiles_of_no_image():
    _, view = under_a_budget(3, cover=0.4)
    batch = batch_of(view, CUTS[:1])
    none = Pixels.cut(batch.visual.values[:0], ())
    texts = replace(batch, visual=none, owner=batch.owner[:0], image_slot=batch.image_slot.clamp(max=-1))
    assert view.see(texts) is None and view.spent(texts) is texts


def test_tiles_that_are_not_needed_are_never_encoded():
    model, view = under_a_budget(3, cover=0.4)
    seen = []
    model.vision.register_forward_hook(lambda module, given, made: seen.append(len(given[0].values)))
    with torch.no_grad():
        left = view.see(batch_of(view)).features
    assert seen[0] == 3 and 0 < sum(seen[1:]) < 8  # the three views, then some of the other eight tiles
    pixels = batch_of(view).visual
    with torch.no_grad():
        there = choosable(model, batch_of(view), view.allocator)[0]
        ready = model.vision(pixels)
    batch = replace(batch_of(view), visual=replace(ready, cuts=CUTS))
    with torch.no_grad():
        torch.testing.assert_close(view.see(batch).features, left, atol=1e-5, rtol=1e-5)  # features tell the same
    assert there.layout.grids[0] == field(CUTS[0], model.vision.plan([(32, 32)]).grids[0])


def test_no_more_tiles_are_encoded_than_cover_the_share():
    counts = []
    for cover in (0.2, 0.6, 1.0):
        model, view = under_a_budget(3, cover=cover)
        seen = []
        model.vision.register_forward_hook(lambda module, given, made, seen=seen: seen.append(len(given[0].values)))
        with torch.no_grad():
            view.see(batch_of(view))
        counts.append(sum(seen))
    assert counts[0] < counts[1] < counts[2] == 11


def test_marks_and_classes_come_with_tiles_read_one_by_one():
    table = {"name": "visual_embedding_table", "entries": 12, "indicators": 2}
    torch.manual_seed(0)
    parts = {"vision": small("vit"), "connector": table, "fusion": {"name": "prefix", "marks": [7, 8]}}
    language = {"name": "decoder", "vocabulary": 44, "width": 16, "depth": 2, "heads": 2, "inner": 24, "context": 256}
    model = causal.assemble(ModelConfig.parse({**parts, "language": language, "mosaic": RASTER})).eval()
    for cover in (0.4, 1.0):
        view = budgeted(model, 3, cover=cover)
        with torch.no_grad():
            seen = view.see(batch_of(view))
            assert seen.marks.shape[0] == 2 and torch.isfinite(view(batch_of(view)).logits).all()
    choice, _ = choosable(model, batch_of(view), view.allocator)
    torch.testing.assert_close(choice.classes.sum(-1), torch.ones(choice.layout.total))


def test_a_video_before_an_image_does_not_choose_its_tiles():
    video, image = Cut(tile=(32, 32), size=(32, 32), view="none", frames=2), CUTS[0]
    for seed in range(6):
        _, view = under_a_budget(3, cover=0.4)
        torch.manual_seed(seed)
        with torch.no_grad():
            alone = batch_of(view, [image])
            tiles = torch.randn_like(alone.visual.values)
            films = torch.randn(2, 3, 32, 32)
            alone = replace(alone, visual=Pixels.cut(tiles, (image,)))
            both = replace(
                alone, visual=Pixels.cut(torch.cat([films, tiles]), (video, image)), owner=torch.tensor([0, 0])
            )
            found = [choosable(view, one, view.allocator)[0] for one in (alone, both)]
        torch.testing.assert_close(found[1].features[-found[0].layout.total :], found[0].features, atol=1e-5, rtol=1e-5)


def test_the_models_own_words_are_heard():
    with pytest.raises(InputError, match="hears words of width 12, and this model's have 16; give that"):
        budgeted(model_of("mlp", RASTER), 3, hears=12)


@pytest.mark.parametrize("realize", ["medoid", "pool"])
def test_who_chooses_tiles_learns_from_what_is_said(realize):
    """With medoids nothing else teaches where to look."""
    model = model_of("mlp", RASTER)
    view = budgeted(model, 3, cover=0.4, hears=16, realize=realize)
    given = batch_of(model)
    with torch.no_grad():
        given = replace(given, visual=replace(model.vision(given.visual), cuts=CUTS))
    words = given.input_ids.clone().random_(1, 40, generator=torch.Generator().manual_seed(0))
    given = replace(given, input_ids=torch.where(given.image_slot < 0, words, given.input_ids))
    batch = view.spent(given, cover=0.5)
    view(batch).logits.logsumexp(-1).sum().backward()
    assert view.allocator.hearing.say.weight.grad.abs().sum() > 0
    torch.nn.init.normal_(view.allocator.hearing.say.weight, std=9.0)  # it has learned something
    moved = view.spent(given, cover=0.5)
    assert not torch.equal(moved.seen.features, batch.seen.features)
    for none in (None, 1.0):  # all tiles are there: nothing is to be chosen
        view.allocator.cover = 1.0
        view.zero_grad()
        view(view.spent(given, cover=none)).logits.logsumexp(-1).sum().backward()
        learned = view.allocator.hearing.say.weight.grad
        assert (learned is not None and learned.abs().sum() > 0) == (realize == "pool")
