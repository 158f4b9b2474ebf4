"""The parts that OpenFlamingo leaves frozen, out of directories of their own (2308.01390).

Its checkpoints hold what was trained: resampler, gated blocks, and the table of words. The language model's own
directory stands beside them as `lang_encoder`, CLIP's as `vision_encoder`, or under the names that config.json gives as
`lang_encoder_path` and `clip_vision_encoder_path`.
"""

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from foveal.core.errors import InputError
from foveal.weights import decoder, gpt_neox, mpt, opt
from foveal.weights.files import read_checkpoint, read_config, read_weights
from foveal.weights.names import Change, Renaming, Rule, prefixed
from foveal.weights.vision_towers import CLIP, vision_rules, vision_settings

_LANGUAGES: dict[ModuleType, str] = {  # where each keeps its layers
    decoder: "lang_encoder.model.layers",
    opt: "lang_encoder.model.decoder.layers",
    gpt_neox: "lang_encoder.gpt_neox.layers",
    mpt: "lang_encoder.transformer.blocks",
}
_TOWER: list[Rule] = [
    ("patches.weight", "conv1.weight"),
    ("class_token", "class_embedding"),
    ("positions", "positional_embedding"),
    ("pre_norm.*", "ln_pre.*"),
    ("post_norm.*", "ln_post.*"),
    ("blocks.*.attention_norm.*", "transformer.resblocks.*.ln_1.*"),
    *(
        (
            tuple(f"blocks.*.attention.{part}.{kind}" for part in ("query", "key", "value")),
            f"transformer.resblocks.*.attn.in_proj_{kind}",
        )
        for kind in ("weight", "bias")
    ),
    ("blocks.*.attention.out.*", "transformer.resblocks.*.attn.out_proj.*"),
    ("blocks.*.feed_norm.*", "transformer.resblocks.*.ln_2.*"),
    ("blocks.*.feed.up.*", "transformer.resblocks.*.mlp.c_fc.*"),
    ("blocks.*.feed.down.*", "transformer.resblocks.*.mlp.c_proj.*"),
    (None, "proj"),
]
_WORDS, _HEAD = "language.embedding.weight", "head.map.weight"


def tower_rules() -> list[Rule]:
    """The names of the tower, which are those of OpenCLIP."""
    return prefixed(_TOWER, ours="vision.", theirs="vision_encoder.")


def tower_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of the component `vit` for CLIP's config: what its last block says of each patch, not normed."""
    return vision_settings(config, layers=(-1,))


def _family(lm: Mapping[str, Any]) -> ModuleType:
    found = next((family for family in _LANGUAGES if family.matches(lm)), None)
    if found is None:
        known = ", ".join(kind for family in _LANGUAGES for kind in family.KINDS)
        raise InputError(f"a language model of kind {lm.get('model_type')!r} is not supported here; supported: {known}")
    return found


def layers_of(lm: Mapping[str, Any]) -> str:
    """Where the language model keeps its layers. Raises InputError for a kind that none of ours is."""
    return _LANGUAGES[_family(lm)]


def language_parts(lm: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Settings of the language model and of its head."""
    family = _family(lm)
    return family.language_settings(lm), family.head_settings(lm)


def language_names(lm: Mapping[str, Any]) -> tuple[list[Rule], dict[str, Change]]:
    """Renaming rules of the language model, each of whose layers stands in a wrapper beside its block, and changes."""
    family = _family(lm)
    stem = layers_of(lm).rpartition(".")[0] + "."
    head, changed = ("lang_encoder.embed_out", "lang_encoder.lm_head"), {}
    if family is gpt_neox:
        rules, changed = gpt_neox.language_rules(stem, head), gpt_neox.changed(lm, stem)
    elif family is mpt:
        rules, changed = mpt.language_rules(lm, stem, head[1]), mpt.changed(lm, stem)
    else:
        rules = family.language_rules(theirs_prefix=stem, head=head[1])
    wrapped: list[Rule] = [
        (ours, tuple(map(_wrapped, (theirs,) if isinstance(theirs, str) else theirs))) for ours, theirs in rules
    ]
    return wrapped, {_wrapped(name): change for name, change in changed.items()}


def _wrapped(theirs: str) -> str:
    return theirs.replace(".*.", ".*.decoder_layer.", 1)


def learned(folder: Path) -> dict[str, Tensor]:
    """What the checkpoint holds, which training saves with its own state and a name before each weight's."""
    file = folder / "checkpoint.pt"
    state = read_weights(file, key="model_state_dict") if file.is_file() else read_checkpoint(folder)
    return {name.removeprefix("module."): weight for name, weight in state.items()}


def with_frozen(
    folder: Path, state: Mapping[str, Tensor], config: Mapping[str, Any]
) -> tuple[dict[str, Tensor], dict[str, Any], dict[str, Tensor]]:
    """What was learned, the config with those of the frozen models, and their weights in our names.

    Raises InputError for a model that is not there, and for a table of words without the image token.
    """
    language = _place(folder, config, "lang_encoder", "language model")
    tower = _place(folder, config, "clip_vision_encoder", "CLIP tower", "vision_encoder")
    lm, sight = read_config(language), read_config(tower)
    sight = {"model_type": CLIP, **sight["vision_config"]} if "vision_config" in sight else sight
    family = _family(lm)
    own = family.renaming(lm).to_ours(read_checkpoint(language))
    names = Renaming(language_names(lm)[0])
    words = state.get(names.spell(_WORDS), own[_WORDS])
    lm = {**lm, "vocab_size": len(words)}
    if (marker := config["media_token_id"]) >= len(words):
        raise InputError(
            f"media_token_id is {marker}, but the table of words has {len(words)} rows; "
            "give the checkpoint that holds the table with the words that were added"
        )
    own[_WORDS] = words
    if language_parts(lm)[1]["tied"]:
        own.pop(_HEAD, None)
    else:
        own[_HEAD] = _grown(own[_HEAD], len(words))
    seen = Renaming(vision_rules(CLIP, "vision.", "")).read(read_checkpoint(tower))[0]
    return dict(state), {**config, "lm": lm, "vision": sight}, {**own, **seen}


def _place(folder: Path, config: Mapping[str, Any], name: str, told: str, usual: str | None = None) -> Path:
    given = config.get(f"{name}_path", usual or name)
    place = folder / given
    if not place.is_dir():
        raise InputError(
            f"{folder} holds no weights of the {told}; put its own directory there as {given}, or name another as "
            f'"{name}_path" in config.json'
        )
    return place


def _grown(head: Tensor, rows: int) -> Tensor:
    """A head of so many rows: words that were added score as the mean of all, for nobody has trained them."""
    more = rows - len(head)
    return head[:rows] if more <= 0 else torch.cat([head, head.mean(0, keepdim=True).expand(more, -1)])
