"""An encoder with a neck is one encoder: what a run saw behind its connector, the starter's too."""

import pytest
import torch
from PIL import Image

import foveal
from foveal.core.errors import InputError
from foveal.core.types import Pixels
from foveal.vision.aligned import Aligned

CONVOLUTIONS = {"name": "efficientnet_lite", "taps": (16,), "levels": (8,)}


def pixels(images=2, size=(48, 64)):
    return Pixels.whole(torch.randn(images, 3, *size, generator=torch.Generator().manual_seed(1)))


def test_tokens_are_the_necks_and_levels_the_encoders():
    torch.manual_seed(0)
    made = Aligned(encoder=CONVOLUTIONS, neck={"name": "conv_mlp", "kernel": 3, "width": 8}, width=6).eval()
    seen, bare = made(pixels()), made.encoder(pixels())
    assert seen.layout == made.plan([(48, 64)] * 2) and seen.features.shape == (2 * 3 * 4, 6)
    assert torch.equal(seen.features, made.neck(bare).features)
    assert [level.shape for level in seen.levels] == [(24, made.level_widths[0])]
    assert torch.equal(seen.levels[0], bare.levels[0])


def test_a_neck_that_folds_keeps_no_levels():
    made = Aligned(encoder=CONVOLUTIONS, neck="pixel_shuffle", width=6)
    with pytest.raises(InputError, match=r"the neck makes 6 tokens of 24 and .* encoder.levels out"):
        made.plan([(64, 96)])
    bare = Aligned(encoder={"name": "efficientnet_lite", "taps": (16,)}, neck="pixel_shuffle", width=6)
    assert bare.plan([(64, 96)]).grids == ((2, 3),)


@pytest.mark.parametrize(
    ("encoder", "neck", "said"),
    [("qwen_vit", "mlp", "reads_frames"), ("vq", "mlp", "codes"), (CONVOLUTIONS, "qformer", "latents")],
)
def test_what_sees_more_than_one_picture_is_refused(encoder, neck, said):
    with torch.device("meta"), pytest.raises(InputError, match=said):
        Aligned(encoder=encoder, neck=neck, width=8)


def test_the_starters_tokens_are_those_behind_its_connector_and_are_not_written_again(tmp_path):
    decoder = {"name": "decoder", "vocabulary": 20, "width": 12, "depth": 1, "heads": 2}
    model = {"vision": "aligned", "connector": "linear", "language": decoder}
    run, starter = foveal.build({"model": model, "init": {"vision": "starter"}}), foveal.load("starter")
    image = Image.effect_noise((256, 256), 90).convert("RGB")
    seen = starter.processor.pixels([image])
    with torch.inference_mode():
        mine = run.model.vision.eval()(seen).features
        assert torch.equal(mine, starter.model.connector(starter.model.vision(seen)).features)
    folder = run.save(tmp_path / "run")
    assert (folder / "model.safetensors").stat().st_size < 100_000
    with torch.inference_mode():
        assert torch.equal(foveal.load(folder).model.vision(seen).features, mine)


def test_what_is_no_run_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    model = {"vision": "aligned", "connector": "linear", "language": {"name": "decoder", "vocabulary": 20}}
    with pytest.raises(InputError, match=r"begins with a run of Foveal, and .*empty is none; name a run, or starter"):
        foveal.build({"model": model, "init": {"vision": str(tmp_path / "empty")}})
    with pytest.raises(InputError, match="imagenet weights are for vision efficientnet_lite, not aligned"):
        foveal.build({"model": model, "init": {"vision": "imagenet"}})
