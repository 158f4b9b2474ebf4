"""Every component of every room, found by folder, in every combination: the plan holds and everything learns."""

from dataclasses import replace
from functools import cache
from itertools import product

import pytest
import torch

from foveal.core.errors import InputError
from foveal.core.interfaces import Connector, Fusion, LanguageModel, VisionEncoder
from foveal.core.lookup import build, class_name, module, names, spec
from foveal.core.types import IGNORE, Batch, Pixels
from foveal.layers.gates import Gate
from foveal.models import causal, masked, seq2seq
from foveal.models.config import ModelConfig

SMALL = {  # settings that make a component small; one that needs none is not listed
    "vit": {"image_size": 32, "patch": 16, "width": 16, "depth": 2, "heads": 2, "inner": 24},
    "native_vit": {"image_size": 32, "patch": 16, "width": 16, "depth": 2, "heads": 2, "inner": 24},
    "tiled_vit": {
        **{"image_size": 32, "patch": 16, "width": 16, "depth": 2, "global_depth": 1, "heads": 2, "inner": 24},
        **{"tiles": 1, "ratios": [[1, 1]], "taps": [0]},
    },
    "qwen_vit": {"patch": 16, "width": 16, "depth": 2, "heads": 2, "inner": 24, "positions": 3},
    "plain_vit": {"image_size": [32, 32], "width": 16, "depth": 2, "heads": 2, "inner": 24},
    "efficientnet_lite": {"variant": 0, "taps": [16], "stride": 16},
    "patches": {"image_size": 32, "patch": 16, "width": 16, "class_token": False},
    "aligned": {
        "encoder": {"name": "vit", "image_size": 32, "patch": 16, "width": 12, "depth": 2, "heads": 2, "inner": 24},
        **{"neck": {"name": "conv_mlp", "kernel": 3, "width": 8}, "width": 16},
    },
    "hybrid_vit": {
        "stem": {"name": "efficientnet_lite", "variant": 0, "taps": [16], "stride": 16},
        **{"depth": 2, "heads": 2, "inner": 24},
    },
    "gpt": {"rope": {"base": 100.0}},
    "qformer": {"queries": 3, "width": 16, "depth": 2, "heads": 2, "vocabulary": 44},
    "conv_mlp": {"kernel": 3, "width": 8},
    "visual_embedding_table": {"entries": 30, "indicators": 2, "factor": 1},
    "perceiver": {"latents": 2, "depth": 1, "heads": 2, "head_width": 4, "factor": 1},
    "gated_cross_attention": {"heads": 2, "head_width": 4, "inner": 12, "blind": "mean"},
    "deepstack": {"after": [0]},
    "dense_sparse": {"keep": [1, 0.5], "inner": 8},
    "vocabulary": {"codes": 24, "first": 20},
    "vq": {"codes": 24, "latent": 8, "width": 16, "base": 32, "multiples": [1, 2], "fold": 8, "decoder": False},
}


LEVELS = {"vit": [1], "efficientnet_lite": [16]}  # of the encoders that have any, for a fusion that reads them


def small(name):
    return {"name": name, **SMALL.get(name, {})}


@cache
def width_of(vision):
    """How wide the tokens of a small encoder are."""
    return build("vision", spec("vision", small(vision))).width


def model_of(vision, connector, fusion, writer="decoder"):
    width = width_of(vision)  # so that the identity connector fits too
    torch.manual_seed(0)
    sizes = {"vocabulary": 44, "width": width, "depth": 2, "heads": 2, "inner": 24, "context": 64}
    parts = {"vision": small(vision), "connector": connector and small(connector), "fusion": small(fusion)}
    if fusion == "deepstack":
        parts["vision"]["levels"] = LEVELS[vision]
    of = getattr(module("fusion", fusion), class_name(fusion))
    if getattr(of, "fills_memory", False):
        return seq2seq.assemble(ModelConfig.parse({**parts, "language": {"name": "sequence_decoder", **sizes}})).eval()
    if of.causal:
        return causal.assemble(ModelConfig.parse({**parts, "language": {**sizes, **small(writer)}})).eval()
    two = {"words": "masked_language", "pair": "classification"}
    two |= {"both": {"name": "paired", "pool": 64}, "regions": "region_prediction"} if fusion == "co_attention" else {}
    return masked.assemble(ModelConfig.parse({**parts, "language": {"name": "encoder", **sizes}, "heads": two})).eval()


def open_gates(model):
    """Nothing behind a closed gate learns, by design, in the first step."""
    with torch.no_grad():
        for part in model.modules():
            if isinstance(part, Gate):
                part.weight.fill_(0.5)


def batch_of(model, rows=2):
    """A row with two images, and one with none."""
    sizes = [(32, 32), (32, 32)]
    layout = model.plan(sizes)
    places = [begin + i for begin, count in zip(layout.offsets, layout.places, strict=False) for i in range(count)]
    slots = torch.full((rows, max(5, len(places)) + 4), -1)
    slots[0, 1 : 1 + len(places)] = torch.tensor(places)
    ids = torch.randint(1, 20, slots.shape, generator=torch.Generator().manual_seed(0))
    valid = torch.ones_like(ids, dtype=torch.bool)
    valid[1, 6:] = False
    pixels = Pixels.whole(torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1)))
    labels = torch.where((slots < 0) & valid, ids, IGNORE)
    owner = torch.zeros(2, dtype=torch.long)
    return Batch(
        input_ids=ids, valid=valid, prompt=valid, image_slot=slots, visual=pixels, owner=owner, labels=labels
    ), layout


CHOOSING = ("attention_norm", "query", "key")
BARE = [name for name in names("vision") if name not in LEVELS]  # a deepstack finds no levels there
FUSIONS = [name for name in names("fusion") if name != "vocabulary"]  # which reads codes, and no connector's tokens
FOLDS = [
    "conv_mlp",
    "placed",
    "patch_merger",
    "pixel_shuffle",
    "window_concat",
    "average_pool",
]  # they take tokens on a grid alone
UNFIT = [one for one in product(["tiled_vit"], FOLDS, FUSIONS) if one[2] != "deepstack"]
COMBINATIONS = [
    *[
        one
        for one in product(names("vision"), names("connectors"), FUSIONS)
        if one not in UNFIT and not (one[2] == "deepstack" and one[0] in BARE)
    ],
    ("vq", None, "vocabulary"),
]


BY_FRAME = [one[:2] for one in COMBINATIONS if one[2] == "prefix" and one[0] != "qwen_vit"]  # which joins two frames


@pytest.mark.parametrize(("vision", "connector"), BY_FRAME)
def test_a_video_is_one_image_of_all_its_frames(vision, connector):
    model = model_of(vision, connector, "prefix")
    batch, _ = batch_of(model)
    values = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    film = replace(batch, visual=Pixels.whole(values, (1, 2)))
    with torch.no_grad():
        whole, apart = model.look(film), model.look(replace(batch, visual=Pixels.whole(values)))
        assert model.see(film).layout == model.plan([(32, 32)] * 3, frames=(1, 2))
    assert torch.equal(whole.features, apart.features) and torch.equal(whole.boxes, apart.boxes)
    assert whole.layout.frames == (1, 2) and torch.equal(whole.image, apart.image.clamp(max=1))
    assert torch.equal(whole.frame, (apart.image == 2).long())


@pytest.mark.parametrize("connector", names("connectors"))
def test_an_encoder_of_frames_sees_two_at_a_time(connector):
    model = model_of("qwen_vit", connector, "prefix")
    batch, _ = batch_of(model)
    values = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    film = replace(batch, visual=Pixels.whole(values, (1, 3)))
    with torch.no_grad():
        seen, cut = model.see(film), model.see(replace(film, visual=model.vision.cut(film.visual)))
    assert seen.layout == model.plan([(32, 32)] * 4, frames=(1, 3))
    assert model.look(film).layout.frames == (1, 2)
    torch.testing.assert_close(seen.features, cut.features)


@pytest.mark.parametrize(("vision", "connector", "fusion"), COMBINATIONS)
def test_every_combination(vision, connector, fusion):
    model = model_of(vision, connector, fusion)
    connectors = [(model.connector, Connector)] if connector else []
    parts = (model.vision, VisionEncoder), (model.fusion, Fusion), (model.language, LanguageModel)
    for part, interface in (*parts, *connectors):
        assert isinstance(part, interface)
    sees_what_is_planned_and_learns(model)


def sees_what_is_planned_and_learns(model):
    open_gates(model)
    batch, layout = batch_of(model)
    output = model(batch, keep="labelled") if model.fusion.causal else model(batch)
    assert output.visual.layout == replace(layout, slots=None) and output.visual.features.shape[0] == layout.total
    assert output.visual.boxes.min() >= 0 and output.visual.boxes.max() <= 1
    sum(said.logsumexp(-1).sum() for said in (output.logits, *output.heads.values())).backward()
    still = [
        name
        for name, weight in model.named_parameters()
        if weight.requires_grad and (weight.grad is None or not weight.grad.abs().sum() > 0)
    ]
    if layout.counts == (1, 1):  # among one token there is nothing to choose, and how it is chosen learns nothing
        still = [name for name in still if not (name.startswith("fusion.") and name.rsplit(".", 2)[1] in CHOOSING)]
    assert still == []


WITHOUT_IMAGES = [
    one for one in COMBINATIONS if one[2] in ("prefix", "vocabulary") and (one[0] == "vit" or one[1] in ("mlp", None))
]


@pytest.mark.parametrize(("vision", "connector", "fusion"), [*WITHOUT_IMAGES, ("vit", "mlp", "memory")])
def test_a_batch_may_hold_pixels_of_no_image(vision, connector, fusion):
    model = model_of(vision, connector, fusion)
    batch, _ = batch_of(model)
    if not isinstance(batch.visual, Pixels):
        return
    ids = torch.randint(1, 20, (2, 5))
    there = torch.ones_like(ids, dtype=torch.bool)
    texts = Batch(input_ids=ids, valid=there, prompt=there, image_slot=torch.full_like(ids, -1))
    none = Pixels.whole(batch.visual.values[:0])
    assert model.look(replace(texts, visual=none)) is None
    if fusion == "memory":
        with pytest.raises(InputError, match="got no images to look at"):
            model(replace(texts, visual=none))
        return
    with torch.no_grad():
        assert torch.equal(model(replace(texts, visual=none)).logits, model(texts).logits)


def writes(name):
    of = getattr(module("language", name), class_name(name))
    return hasattr(of, "cache") and not getattr(of, "reads_memory", False)


def stands_in_text(name):
    of = getattr(module("fusion", name), class_name(name))
    return of.causal and not getattr(of, "fills_memory", False)  # which is for a decoder that looks at memory


WRITERS = [name for name in names("language") if name != "decoder" and writes(name)]
IN_TEXT = [name for name in FUSIONS if stands_in_text(name)]


@pytest.mark.parametrize(("writer", "fusion"), [*product(WRITERS, IN_TEXT)])
def test_every_language_model_that_writes_takes_every_fusion_for_such(writer, fusion):
    sees_what_is_planned_and_learns(model_of("vit", "linear", fusion, writer))


@pytest.mark.parametrize(("vision", "connector", "fusion"), UNFIT)
def test_what_does_not_fit_is_refused_before_a_pixel_is_read(vision, connector, fusion):
    with pytest.raises(InputError, match="grid"):
        model_of(vision, connector, fusion).plan([(32, 32)])


@pytest.mark.parametrize("vision", names("vision"))
def test_an_image_alone_equals_itself_in_a_batch(vision):
    model = model_of(vision, "linear", "prefix")
    batch, layout = batch_of(model)
    with torch.no_grad():
        both = model.vision(batch.visual)
        alone = model.vision(Pixels.whole(batch.visual.values[1:]))
    torch.testing.assert_close(both.features[layout.offsets[1] :], alone.features, atol=1e-5, rtol=1e-4)


WRITER = {"name": "decoder", "vocabulary": 44, "width": 16, "depth": 2, "heads": 2, "inner": 24}


@pytest.mark.parametrize("vision", BARE)
def test_a_deepstack_over_an_encoder_without_levels_is_refused(vision):
    parts = {"vision": small(vision), "connector": "linear", "fusion": small("deepstack"), "language": WRITER}
    with pytest.raises(InputError, match="reads 1 levels"):
        causal.assemble(ModelConfig.parse(parts))


def test_levels_that_no_fusion_reads_are_refused():
    parts = {"vision": {**small("vit"), "levels": [0, 1]}, "connector": "linear", "language": WRITER}
    with pytest.raises(InputError, match="reads no levels of images and vision 'vit' gives 2"):
        causal.assemble(ModelConfig.parse(parts))
