"""Pix2Seq checkpoints (2109.10852): the variables of google-research/pix2seq, and the decoder of its PyTorch port."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from foveal.core.errors import InputError
from foveal.core.types import Batch, Layout, Pixels, VisualTokens
from foveal.decode.constrained import nucleus, write
from foveal.models.assembly import empty
from foveal.models.causal import Causal
from foveal.models.config import ModelConfig
from foveal.weights.files import read_checkpoint
from foveal.weights.names import Renaming, Rule, load_strict

KINDS = ("pix2seq",)
_PORT = ("num_bins", "num_classes", "max_len", "pad_idx")

_ROOTS = {"vision": "stem_conv/kernel", "language": "transformer_decoder/transformer_decoder_layer/self_mha/ln/gamma"}
_HEADS = re.compile(r"/(query|key|value)/(kernel|bias)$")
_LAYER = re.compile(r"transformer_(?:encoder/transformer_encoder|decoder/transformer_decoder_layer)(?:_(\d+))?/")


def _attention(ours: str, theirs: str) -> list[Rule]:
    parts: list[Rule] = [(f"{ours}.{part}.*", f"{theirs}.{part}.*") for part in ("query", "key", "value")]
    return [*parts, (f"{ours}.out.*", f"{theirs}.attention_output.*")]


_OFFICIAL = Renaming(
    [
        ("vision.patches.*", "vision.stem_conv.*"),
        ("vision.patch_norm.*", "vision.stem_ln.*"),
        ("vision.class_token", "vision.cls_token_embedding"),
        ("vision.positions", "vision.vis_pos_embedding"),
        ("vision.last_norm.*", "vision.ouput_ln.*"),
        ("vision.blocks.*.attention_norm.*", "vision.layer.*.mha.ln.*"),
        *_attention("vision.blocks.*.attention", "vision.layer.*.mha"),
        ("vision.blocks.*.feed_norm.*", "vision.layer.*.mlp.ffn.ln.*"),
        ("vision.blocks.*.feed.up.*", "vision.layer.*.mlp.ffn.dense1.*"),
        ("vision.blocks.*.feed.down.*", "vision.layer.*.mlp.ffn.dense2.*"),
        ("connector.map.*", "proj.linear.*"),
        ("connector.norm.*", "proj.ln.*"),
        ("connector.positions", "proj.vis_pos_embedding"),
        ("connector.feed_norm.*", "proj.mlp.ffn.ln.*"),
        ("connector.feed.up.*", "proj.mlp.ffn.dense1.*"),
        ("connector.feed.down.*", "proj.mlp.ffn.dense2.*"),
        ("language.embedding.weight", ("language.token_embedding", "language.inp_token_embedding")),
        ("head.map.weight", "language.outp_token_embedding"),
        ("head.map.bias", "language.outp_bias"),
        ("language.positions.weight", "language.seq_pos_embedding"),
        ("language.last_norm.*", "language.ouput_ln.*"),
        ("language.layers.*.attention_norm.*", "language.layer.*.self_mha.ln.*"),
        *_attention("language.layers.*.attention", "language.layer.*.self_mha"),
        ("language.layers.*.cross_norm.*", "language.layer.*.cross_mha.ln.*"),
        *_attention("language.layers.*.cross", "language.layer.*.cross_mha"),
        ("language.layers.*.feed_norm.*", "language.layer.*.mlp.ffn.ln.*"),
        ("language.layers.*.feed.up.*", "language.layer.*.mlp.ffn.dense1.*"),
        ("language.layers.*.feed.down.*", "language.layer.*.mlp.ffn.dense2.*"),
    ]
)


def _fused(ours: str, theirs: str) -> list[Rule]:
    three = [(f"{ours}.query.{kind}", f"{ours}.key.{kind}", f"{ours}.value.{kind}") for kind in ("weight", "bias")]
    rules: list[Rule] = [(mine, f"{theirs}.in_proj_{mine[0].rpartition('.')[2]}") for mine in three]
    return [*rules, (f"{ours}.out.*", f"{theirs}.out_proj.*")]


_PORTED = Renaming(
    [
        ("language.embedding.weight", "embedding.weight"),
        ("language.positions.weight", "decoder_pos_embed"),
        ("fusion.positions.weight", "encoder_pos_embed"),
        *_fused("language.layers.*.attention", "decoder.layers.*.self_attn"),
        *_fused("language.layers.*.cross", "decoder.layers.*.multihead_attn"),
        ("language.layers.*.feed.up.*", "decoder.layers.*.linear1.*"),
        ("language.layers.*.feed.down.*", "decoder.layers.*.linear2.*"),
        ("language.layers.*.attention_norm.*", "decoder.layers.*.norm1.*"),
        ("language.layers.*.cross_norm.*", "decoder.layers.*.norm2.*"),
        ("language.layers.*.feed_norm.*", "decoder.layers.*.norm3.*"),
        ("head.map.*", "output.*"),
    ]
)


@dataclass(frozen=True, kw_only=True)
class Pix2SeqOutput:
    """Scores of every word after every token, what the decoder saw of the images, and the loss where asked for."""

    logits: Float[Tensor, "B L V"]
    encoded: Float[Tensor, "B S D"]
    loss: Float[Tensor, ""] | None = None


def matches(config: Mapping[str, Any]) -> bool:
    """Whether a config.json is that of a Pix2Seq, the official one or the port's."""
    parts, whole = {"net_encoder", "net_decoder"} <= config.keys(), config.get("model")
    official = parts or (isinstance(whole, Mapping) and "coord_vocab_shift" in whole)
    return config.get("model_type") in KINDS or official or set(_PORT) <= config.keys()


def model_config(config: Mapping[str, Any], state: Mapping[str, Tensor]) -> ModelConfig:
    """The rooms' components for a config: `model` as the reference writes it, a net's two parts, or the port's.

    Raises InputError for an encoder over a ResNet.
    """
    if set(_PORT) <= config.keys():
        return _port_config(config, state)
    encoder, decoder = _parts(config)
    connector: dict[str, Any] = {"name": "identity"}
    if (mode := encoder.pop("proj_mode")) is not None:
        size, patch = encoder["image_size"], encoder["patch"]
        connector = {
            "name": "placed",
            "positions": "none" if mode == "linear" else encoder["positions"],
            "grid": (size[0] // patch, size[1] // patch),
            "class_token": encoder["class_token"],
            "inner": decoder["width"] * (encoder["inner"] // encoder["width"]) if mode == "mlp" else 0,
        }
    head = {"name": "language_model", "tied": decoder.pop("shared"), "bias": decoder.pop("bias")}
    return ModelConfig.parse(
        {
            "assembly": "seq2seq",
            "vision": {"name": "plain_vit", **encoder},
            "connector": connector,
            "fusion": "memory",
            "language": {"name": "sequence_decoder", **decoder},
            "head": head,
        }
    )


def _parts(config: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Settings of the encoder and the decoder, by our names."""
    net, dec = _nets(config["model"]) if "model" in config else (config["net_encoder"], config["net_decoder"])
    encoder = _sizes(net) | {
        "patch": net["patch_size"],
        "class_token": net["use_cls_token"],
        "image_size": (net["image_height"], net["image_width"]),
        "proj_mode": net.get("proj_mode"),
    }
    decoder = _sizes(dec) | {
        "vocabulary": dec["vocab_size"],
        "context": dec["max_seq_len"],
        "shared": dec["shared_embedding"],
        "bias": dec["output_bias"],
    }
    return encoder, decoder


def _nets(given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The whole model's settings in the reference, as those of its encoder and its decoder."""
    if given.get("resnet_variant", "c1") != "c1":
        raise InputError(f"a Pix2Seq over a ResNet ({given['resnet_variant']}) is not supported; give a ViT one")
    side = given["image_size"]
    height, width = (side, side) if isinstance(side, int) else side
    encoder = {key: given[key] for key in ("pos_encoding", "use_cls_token", "patch_size")}
    encoder |= {"image_height": height, "image_width": width, "proj_mode": given["dec_proj_mode"]}
    decoder = {
        "pos_encoding": given["pos_encoding_dec"],
        "shared_embedding": given["shared_decoder_embedding"],
        "output_bias": given["decoder_output_bias"],
        "vocab_size": given["vocab_size"],
        "max_seq_len": given["max_seq_len"],
    }
    for net, suffix, kind in ((encoder, "", "encoder"), (decoder, "_dec", "decoder")):
        dim = given[f"dim_att{suffix}"]
        net |= {"dim": dim, "mlp_ratio": given[f"dim_mlp{suffix}"] // dim}
        net |= {"num_heads": given[f"num_heads{suffix}"], "num_layers": given[f"num_{kind}_layers"]}
    return encoder, decoder


def _sizes(net: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "width": net["dim"],
        "depth": net["num_layers"],
        "heads": net["num_heads"],
        "inner": net["dim"] * net["mlp_ratio"],
        "positions": net["pos_encoding"],
    }


def _port_config(config: Mapping[str, Any], state: Mapping[str, Tensor]) -> ModelConfig:
    if "encoder_pos_embed" not in state:
        raise InputError("missing: encoder_pos_embed; give the state dict of the port's Decoder")
    return ModelConfig.parse(
        {
            "assembly": "seq2seq",
            "features": config["dim"],
            "connector": "identity",
            "fusion": {"name": "memory", "positions": state["encoder_pos_embed"].shape[-2]},
            "language": {
                "name": "sequence_decoder",
                "vocabulary": config["num_bins"] + config["num_classes"] + 3,
                "width": config["dim"],
                "depth": config["layers"],
                "heads": config["heads"],
                "inner": config.get("ffn", 2048),
                "context": config["max_len"] - 1,
                "activation": "relu",
                "eps": 1e-5,
                "norm_first": False,
            },
            "head": {"name": "language_model", "bias": True},
        }
    )


def arranged(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The reference's variables with dotted names and torch's axes: kernels are turned, and heads are joined.

    What stands before the encoder's and the decoder's names does not matter. Raises InputError where the variables
    are those of several networks.
    """
    state = {name.removesuffix(":0"): weight for name, weight in state.items()}
    roots = {part: _root(state, tail) for part, tail in _ROOTS.items()}
    result = {}
    for name, weight in state.items():
        local = name[name.index("proj/") :] if "proj/" in name else name
        for part, root in roots.items():
            if root and name.startswith(root):
                again = f"{root.split('/')[-2]}/"  # Keras repeats a layer's name before the layer's own variables
                local = f"{part}/{name[len(root) :].removeprefix(again)}"
        result[_dotted(local)] = _turned(name, weight)
    return result


def _root(state: Mapping[str, Tensor], tail: str) -> str:
    """What stands before the names of a network; nothing where it has no part that ends so."""
    found = sorted({name.removesuffix(tail) for name in state if name.endswith(tail)})
    if len(found) > 1:
        raise InputError(f"these are the variables of {len(found)} networks ({', '.join(found)}); keep one of them")
    return found[0] if found else ""


def _dotted(name: str) -> str:
    name = _LAYER.sub(lambda found: f"layer/{found[1] or 0}/", name)
    stem, _, last = name.rpartition("/")
    kinds = {"kernel": "weight", "gamma": "weight", "beta": "bias"}
    return f"{stem}/{kinds.get(last, last)}".replace("/", ".")


def _turned(name: str, weight: Tensor) -> Tensor:
    """Height width in out; in heads each; heads each out; in out: as torch lays them out."""
    if name.endswith("stem_conv/kernel"):
        return weight.permute(3, 2, 0, 1).contiguous()
    if _HEADS.search(name):
        return weight.flatten() if name.endswith("bias") else weight.flatten(1).T.contiguous()
    if name.endswith("attention_output/kernel"):
        return weight.flatten(0, 1).T.contiguous()
    return weight.T.contiguous() if name.endswith("/kernel") else weight


class Pix2Seq(nn.Module):
    """A seq2seq model called as the official one: images `[B H W C]` from 0 to 1, and the tokens that it reads."""

    def __init__(self, model: Causal, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.model, self.config = model, dict(config)

    def forward(
        self,
        images: Float[Tensor, "B H W C"],
        seq: Int[Tensor, "B L"],
        *,
        target_seq: Int[Tensor, "B L"] | None = None,
        token_weights: Float[Tensor, "B L"] | None = None,
    ) -> Pix2SeqOutput:
        """Scores of the next word after every token; with `target_seq` the loss, weighted by `token_weights`."""
        output = self.model(_batch(seq, Pixels.whole(images.movedim(-1, 1))))
        loss = None
        if target_seq is not None:
            losses = F.cross_entropy(output.logits.transpose(1, 2), target_seq, reduction="none")
            weights = torch.ones_like(losses) if token_weights is None else token_weights
            loss = (losses * weights).sum() / (weights.sum() + 1e-9)
        return Pix2SeqOutput(logits=output.logits, encoded=_by_row(output.visual, len(seq)), loss=loss)

    @torch.no_grad()
    def infer(
        self,
        images: Float[Tensor, "B H W C"],
        prompt_seq: Int[Tensor, "B P"],
        max_seq_len: int | None = None,
        *,
        temperature: float = 1.0,
        top_k: int = 1,
        top_p: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> tuple[Int[Tensor, "B M"], Float[Tensor, "B M V"]]:
        """New tokens until prompt and they are `max_seq_len` long, and the scores that each was drawn from."""
        steps = (max_seq_len or self.model.language.context) - prompt_seq.shape[1]
        everything = torch.ones(1, self.model.language.vocabulary, dtype=torch.bool)
        draw = nucleus(top_p=top_p, top_k=top_k, temperature=temperature, generator=generator)
        batch = _batch(prompt_seq, Pixels.whole(images.movedim(-1, 1)))
        written = write(self.model, batch, legal=everything, steps=steps, sampling=draw, keep_logits=True)
        assert written.logits is not None
        return written.tokens, written.logits


class Pix2SeqPort(nn.Module):
    """A seq2seq model called as the PyTorch port's decoder: what an encoder saw `[B S D]`, and the tokens it reads."""

    def __init__(self, model: Causal, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.model, self.config, self.pad = model, dict(config), int(config["pad_idx"])

    def forward(
        self, encoder_out: Float[Tensor, "B S D"], tgt: Int[Tensor, "B L"], *, labels: Int[Tensor, "B L"] | None = None
    ) -> Pix2SeqOutput:
        """Scores of the next word after every token; with `labels` the mean loss over those that are no padding."""
        rows, count, _ = encoder_out.shape
        seen = VisualTokens.on_layout(
            encoder_out.flatten(0, 1), Layout(counts=(count,) * rows, grids=(None,) * rows)
        )  # fmt: skip
        logits = self.model(_batch(tgt, seen, valid=tgt != self.pad)).logits
        loss = None
        if labels is not None:
            loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=self.pad)
        return Pix2SeqOutput(logits=logits, encoded=encoder_out, loss=loss)

    def predict(self, encoder_out: Float[Tensor, "B S D"], tgt: Int[Tensor, "B L"]) -> Float[Tensor, "B V"]:
        """Scores of the word after the last token."""
        return self(encoder_out, tgt).logits[:, -1]


def _batch(seq: Tensor, visual: Pixels | VisualTokens, *, valid: Tensor | None = None) -> Batch:
    full = valid is None or bool(valid.all())
    valid = torch.ones_like(seq, dtype=torch.bool) if valid is None else valid
    return Batch(
        input_ids=seq,
        valid=valid,
        prompt=valid,
        image_slot=torch.full_like(seq, -1),
        visual=visual,
        owner=torch.arange(len(seq), device=seq.device),
        positions=torch.arange(seq.shape[1], device=seq.device).expand_as(seq),
        full=full,
    )


def _by_row(visual: VisualTokens | None, rows: int) -> Tensor:
    assert visual is not None
    return visual.features.unflatten(0, (rows, -1))


def load(
    directory: str | Path,
    config: Mapping[str, Any],
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Pix2Seq | Pix2SeqPort:
    """The model of a checkpoint directory, called as its reference is; `config` is its config.json.

    Raises InputError for an unsupported encoder and for a missing, unexpected or mis-shaped weight.
    """
    state = read_checkpoint(Path(directory))
    port = set(_PORT) <= config.keys()
    model = empty(model_config(config, state))
    if port:
        state = {name: weight[0] if name.endswith("_pos_embed") else weight for name, weight in state.items()}
    else:
        state = arranged(state)
    load_strict(
        model, state, str(directory), renaming=_PORTED if port else _OFFICIAL, dtype=dtype, device=device
    )  # fmt: skip
    wrap: Callable[[Causal, Mapping[str, Any]], Pix2Seq | Pix2SeqPort] = Pix2SeqPort if port else Pix2Seq
    return wrap(model, config).eval()
