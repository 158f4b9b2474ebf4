"""Pix2Seq against its references: the official networks with both kinds of positions, and the PyTorch port."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from foveal.core.errors import InputError
from foveal.front import load

TOLERANCE = {"atol": 1e-5, "rtol": 1e-5}
NETS = ["learned", "sincos"]


def write(folder, config, state):
    (folder / "config.json").write_text(json.dumps(config))
    save_file({name: tensor.clone() for name, tensor in state.items()}, folder / "model.safetensors")
    return folder


def official(known, net, folder, *, prefix=""):
    """One of the fixture's two networks as a checkpoint directory."""
    config = json.loads(json.dumps(known.config))
    if net == "sincos":
        config["net_encoder"] |= {"pos_encoding": "sin_cos", "use_cls_token": False}
        config["net_decoder"] |= {"pos_encoding": "sin_cos", "shared_embedding": False}
    start = f"{net}."
    state = {prefix + name[len(start) :]: of for name, of in known.weights.items() if name.startswith(start)}
    return write(folder, config, state)


@pytest.mark.parametrize("net", NETS)
def test_official_known_answers(known_answers, tmp_path, net):
    known = known_answers("pix2seq_official")
    model = load(official(known, net, tmp_path), format="pix2seq")
    images, tokens = known.inputs[f"net.{net}.image"], known.inputs[f"net.{net}.tokens"]
    output = model(images, tokens)
    torch.testing.assert_close(output.encoded, known.outputs[f"net.{net}.encoded"], **TOLERANCE)
    torch.testing.assert_close(output.logits, known.outputs[f"net.{net}.logits"], **TOLERANCE)


@pytest.mark.parametrize("net", NETS)
def test_official_greedy_answers(known_answers, tmp_path, net):
    known = known_answers("pix2seq_official")
    model = load(official(known, net, tmp_path, prefix="model/"))
    images, tokens = known.inputs[f"net.{net}.image"], known.inputs[f"net.{net}.tokens"]
    found, logits = model.infer(images, tokens[:, :2], 10)
    assert torch.equal(found, known.outputs[f"net.{net}.greedy"])
    torch.testing.assert_close(logits, known.outputs[f"net.{net}.greedy_logits"], **TOLERANCE)


def test_the_weighted_loss(known_answers, tmp_path):
    known = known_answers("pix2seq_official")
    model = load(official(known, "learned", tmp_path))
    images, tokens = known.inputs["net.learned.image"], known.inputs["net.learned.tokens"]
    target, weights = tokens.roll(-1, 1), torch.rand(tokens.shape)
    chances = known.outputs["net.learned.logits"].double().softmax(-1).gather(-1, target[..., None])[..., 0]
    expected = -(chances.log() * weights).sum() / (weights.sum() + 1e-9)
    loss = model(images, tokens, target_seq=target, token_weights=weights).loss
    torch.testing.assert_close(loss, expected.float(), **TOLERANCE)


def test_port_known_answers(known_answers, tmp_path):
    known = known_answers("pix2seq_torch_port")
    model = load(write(tmp_path, known.config, known.weights), format="pix2seq")
    seen, tokens = known.inputs["encoder_out"], known.inputs["tgt"]
    output = model(seen, tokens, labels=tokens.roll(-1, 1))
    torch.testing.assert_close(output.logits, known.outputs["logits"], **TOLERANCE)
    expected = torch.nn.functional.cross_entropy(
        known.outputs["logits"].flatten(0, 1), tokens.roll(-1, 1).flatten(), ignore_index=57
    )
    torch.testing.assert_close(output.loss, expected, **TOLERANCE)
    torch.testing.assert_close(model.predict(seen, tokens[:, :6]), known.outputs["predict_next"], **TOLERANCE)


WHOLE = {
    "image_size": (16, 24), "patch_size": 4, "use_cls_token": True, "pos_encoding": "learned", "dim_att": 32,
    "dim_mlp": 64, "num_heads": 4, "num_encoder_layers": 2, "dec_proj_mode": "mlp", "dim_att_dec": 32,
    "dim_mlp_dec": 64, "num_heads_dec": 4, "num_decoder_layers": 2, "pos_encoding_dec": "learned",
    "shared_decoder_embedding": True, "decoder_output_bias": True, "vocab_size": 90, "max_seq_len": 12,
    "coord_vocab_shift": 1000, "resnet_variant": "c1",
}  # fmt: skip


def projection(mode):
    """Random weights of what stands between encoder and decoder in the whole model."""
    torch.manual_seed(0)
    state = {"linear/kernel": torch.randn(32, 32) * 0.3, "linear/bias": torch.randn(32)}
    state |= {f"{name}/{of}": torch.randn(32) for name in ("ln", "mlp/ffn/ln") for of in ("gamma", "beta")}
    state |= {"mlp/ffn/dense1/kernel": torch.randn(32, 64) * 0.3, "mlp/ffn/dense1/bias": torch.randn(64)}
    state |= {"mlp/ffn/dense2/kernel": torch.randn(64, 32) * 0.3, "mlp/ffn/dense2/bias": torch.randn(32)}
    state |= {"vis_pos_embedding": torch.randn(24, 32)}
    kept = {"linear": ("linear", "ln"), "linear_p": ("linear", "ln", "vis"), "mlp": ("",)}[mode]
    return {name: of for name, of in state.items() if name.startswith(kept)}


@pytest.mark.parametrize("mode", ["linear", "linear_p", "mlp"])
def test_the_whole_model_projects_what_it_sees(known_answers, tmp_path, mode):
    known, more = known_answers("pix2seq_official"), projection(mode)
    roots = {"learned.enc/enc/": "vit/", "learned.dec/dec/": "ar_decoder/"}
    state = {f"proj/{name}": of for name, of in more.items()}
    for name, of in known.weights.items():
        state |= {f"{new}{name[len(old) :]}:0": of for old, new in roots.items() if name.startswith(old)}
    model = load(write(tmp_path, {"model": {**WHOLE, "dec_proj_mode": mode}}, state))
    norm = torch.nn.functional.layer_norm
    expected = known.outputs["net.learned.encoded"] @ more["linear/kernel"] + more["linear/bias"]
    expected = norm(expected, (32,), more["ln/gamma"], more["ln/beta"], 1e-6)
    if mode != "linear":
        expected[:, 1:] += more["vis_pos_embedding"]
    if mode == "mlp":
        hidden = norm(expected, (32,), more["mlp/ffn/ln/gamma"], more["mlp/ffn/ln/beta"], 1e-6)
        hidden = torch.nn.functional.gelu(hidden @ more["mlp/ffn/dense1/kernel"] + more["mlp/ffn/dense1/bias"])
        expected = expected + hidden @ more["mlp/ffn/dense2/kernel"] + more["mlp/ffn/dense2/bias"]
    encoded = model(known.inputs["net.learned.image"], known.inputs["net.learned.tokens"]).encoded
    torch.testing.assert_close(encoded, expected, **TOLERANCE)


def test_what_does_not_belong_is_named(known_answers, tmp_path):
    known = known_answers("pix2seq_official")
    with pytest.raises(InputError, match=r"2 networks \(learned.enc/enc/, sincos.enc/enc/\)"):
        load(write(tmp_path, known.config, known.weights))
    folder = official(known, "learned", tmp_path)
    state = load_file(folder / "model.safetensors")
    save_file({name: of for name, of in state.items() if "outp_bias" not in name}, folder / "model.safetensors")
    with pytest.raises(InputError, match=r"missing: language\.outp_bias"):
        load(folder)
    with pytest.raises(InputError, match="over a ResNet"):
        load(write(tmp_path, {"model": {**WHOLE, "resnet_variant": "c4"}}, state))
