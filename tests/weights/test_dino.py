"""DINOv2 towers give the numbers of their references, go back into their format, and see for a LLaVA."""

import pytest
import torch
from transformers import (
    Dinov2Config,
    Dinov2ForImageClassification,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
)

from foveal.core.lookup import build, spec
from foveal.core.types import Pixels
from foveal.front import load
from foveal.weights.files import read_checkpoint, write_checkpoint
from foveal.weights.pretrained import pretrained
from foveal.weights.vision_towers import vision_settings

CLOSE = {"atol": 1e-5, "rtol": 1e-5}
SMALL = {"hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 3, "patch_size": 4, "image_size": 20}
KINDS = {
    "plain": (Dinov2Config, Dinov2Model, {}),
    "registers": (Dinov2WithRegistersConfig, Dinov2WithRegistersModel, {"num_register_tokens": 3}),
    "gated": (Dinov2Config, Dinov2Model, {"use_swiglu_ffn": True, "mlp_ratio": 3}),
}
SIZES = [(20, 20), (12, 28), (40, 8)]
every_kind = pytest.mark.parametrize("kind", KINDS)


def reference(kind, made=None, **settings):
    config, model, own = KINDS[kind]
    torch.manual_seed(0)
    model = (made or model)(config(**{**SMALL, **own, **settings})).eval()
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    return model


def images(*size):
    return torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))


@every_kind
@pytest.mark.parametrize("size", SIZES)
@torch.no_grad()
def test_the_numbers_of_the_reference(tmp_path, kind, size):
    theirs = reference(kind)
    theirs.save_pretrained(tmp_path)
    told, wanted = (
        load(tmp_path)(images(*size), output_hidden_states=True),
        theirs(images(*size), output_hidden_states=True),
    )
    torch.testing.assert_close(told.last_hidden_state, wanted.last_hidden_state, **CLOSE)
    torch.testing.assert_close(told.pooler_output, wanted.pooler_output, **CLOSE)
    assert len(told.hidden_states) == len(wanted.hidden_states) == 4
    for mine, yours in zip(told.hidden_states, wanted.hidden_states, strict=True):
        torch.testing.assert_close(mine, yours, **CLOSE)


@every_kind
def test_written_back_the_reference_loads_it(tmp_path, kind):
    theirs = reference(kind)
    theirs.save_pretrained(tmp_path / "there")
    load(tmp_path / "there").save_pretrained(tmp_path / "back")
    again, told = type(theirs).from_pretrained(tmp_path / "back", output_loading_info=True)
    assert not told["unexpected_keys"] and not told["mismatched_keys"]
    assert set(told["missing_keys"]) <= {"embeddings.mask_token"}  # that of its own training
    for name, weight in theirs.state_dict().items():
        assert name == "embeddings.mask_token" or torch.equal(again.state_dict()[name], weight), name


@torch.no_grad()
def test_a_head_of_classes_stays_behind(tmp_path):
    theirs = reference("plain", Dinov2ForImageClassification)
    theirs.save_pretrained(tmp_path)
    told = load(tmp_path)(images(20, 20)).last_hidden_state
    torch.testing.assert_close(told, theirs.dinov2(images(20, 20)).last_hidden_state, **CLOSE)


def test_the_names_of_earlier_files(tmp_path):
    theirs = reference("plain")
    theirs.save_pretrained(tmp_path)
    wanted = load(tmp_path).state_dict()
    then = {
        "q_proj": "attention.query",
        "k_proj": "attention.key",
        "v_proj": "attention.value",
        "o_proj": "output.dense",
    }
    state = read_checkpoint(tmp_path)
    for now, old in then.items():
        state = {name.replace(f"attention.{now}", f"attention.{old}"): weight for name, weight in state.items()}
    write_checkpoint(tmp_path, state)
    assert all(torch.equal(weight, wanted[name]) for name, weight in load(tmp_path).state_dict().items())


@every_kind
@pytest.mark.parametrize("select", ["default", "full", "patches"])
@torch.no_grad()
def test_it_sees_for_a_model_of_ours(tmp_path, kind, select):
    """Its last state but one, of the tokens that are asked for; `patches` lie on the grid."""
    theirs = reference(kind)
    theirs.save_pretrained(tmp_path)
    encoder = build("vision", found := spec("vision", vision_settings(theirs.config.to_dict(), (-2,), select)))
    state = pretrained("vision", str(tmp_path), found)
    encoder.load_state_dict({name.removeprefix("vision."): weight for name, weight in state.items()})
    registers = KINDS[kind][2].get("num_register_tokens", 0)
    dropped = {"default": 1, "full": 0, "patches": 1 + registers}[select]
    wanted = theirs(images(12, 28), output_hidden_states=True).hidden_states[-2][:, dropped:]
    told = encoder(Pixels.whole(images(12, 28)))
    torch.testing.assert_close(told.features, wanted.flatten(0, 1), **CLOSE)
    assert told.layout.grids == ((3, 7) if dropped == 1 + registers else None,) * 2
    seen = encoder.attended(Pixels.whole(images(12, 28)))
    assert seen.attention.shape == told.features.shape[:1] and torch.equal(seen.features, told.features)
