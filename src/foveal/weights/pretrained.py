"""Pretrained parts by name or directory: what a recipe's `init` puts into a fresh model."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from foveal.core.config import parse
from foveal.core.errors import InputError, unknown
from foveal.core.lookup import Spec, names
from foveal.models.autoencoder import Autoencoder
from foveal.models.causal import Causal
from foveal.models.config import ModelConfig
from foveal.models.masked import Masked
from foveal.models.two_tower import TwoTower
from foveal.preprocess.transform import ImageTransform
from foveal.weights import (
    blip2,
    blip2_pairs,
    decoder,
    efficientnet_lite,
    files,
    gpt_neox,
    idefics,
    idefics2,
    idefics3,
    instructblip,
    lavis,
    lavis_pairs,
    llava,
    llava_next,
    mpt,
    open_flamingo,
    opt,
    ovis2,
    siglip2,
    vision_towers,
)
from foveal.weights.directory import described, fingerprint, is_run, read_config
from foveal.weights.packaged import place as place

PACKAGED_LANGUAGE = "smollm2-135m"
_PACKAGED = {"vision": ("imagenet", "starter"), "language": (PACKAGED_LANGUAGE,), "connector": ("starter",)}
_FAMILIES: dict[str, tuple[ModuleType, ...]] = {
    "vision": (vision_towers, siglip2),
    "language": (decoder, opt, gpt_neox, mpt),
    "connector": (
        *(blip2, blip2_pairs, instructblip, lavis, lavis_pairs),
        *(llava, llava_next, idefics, idefics2, idefics3, ovis2, open_flamingo),
    ),
}
EXTERNAL = ("imagenet", "starter")  # what a run leaves to the package that it came with, and keeps a fingerprint of
_FRESH = "connector.map."  # what a Q-Former's first stage has no use for


def pretrained(part: str, source: str, spec: Spec | None) -> dict[str, Tensor]:
    """The weights of one part in our names, from an installed package, a run, or a reference checkpoint's directory.

    Raises InputError for a part that the model lacks, an unknown source, and a source that does not fit the part.
    """
    if part not in _PACKAGED or spec is None:
        raise unknown("part in init:", part, _PACKAGED)
    if source == "imagenet" and part == "vision":
        if spec.name != "efficientnet_lite":
            raise InputError(f"imagenet weights are for vision efficientnet_lite, not {spec.name}; name a directory")
        return _under("vision.", efficientnet_lite.pretrained(spec.settings.variant))
    directory = place(source)
    if not directory.is_dir() and part == "connector":
        raise InputError(f"init.connector: there is no run {source}; train it first, or name another")
    if not directory.is_dir():
        raise unknown(f"source of {part} in init:", source, _PACKAGED[part])
    if part == "vision" and spec.name == "aligned":
        return _aligned(directory)
    return _from_directory(part, directory)


def _aligned(directory: Path) -> dict[str, Tensor]:
    """A run's encoder and its connector, as the two halves of one encoder."""
    if not is_run(directory):
        raise InputError(
            f"vision 'aligned' begins with a run of Foveal, and {directory} is none; name a run, or starter"
        )
    halves = {"vision.": "vision.encoder.", "connector.": "vision.neck."}
    return {
        name.replace(old, new, 1): weight
        for name, weight in _run_state(directory, "vision", "connector").items()
        for old, new in halves.items()
        if name.startswith(old)
    }


def _run_state(directory: Path, *parts: str) -> dict[str, Tensor]:
    """The weights of a run, with those of these `parts` that it left to an installed package."""
    run, state = read_config(directory / "config.yaml"), files.read_checkpoint(directory)
    return state | external(run, ModelConfig.parse(run["model"]), directory, parts)


def external(
    run: Mapping[str, Any], config: ModelConfig, directory: Path, parts: Sequence[str] | None = None
) -> dict[str, Tensor]:
    """What a run left to installed packages, of these parts or of all; raises InputError where it has changed since."""
    found: dict[str, Tensor] = {}
    for part, entry in (run.get("external") or {}).items():
        if parts is None or part in parts:
            if getattr(config, part, None) is None:
                raise InputError(
                    f"{directory} left out the weights of its {part}, and its model names none; restore it"
                )
            fresh = pretrained(part, entry["source"], getattr(config, part))
            if fingerprint(fresh) != entry["sha256"]:
                raise InputError(
                    f"{directory}: its {part} was made with other weights than the installed {entry['source']!r} ones; "
                    "install the version it was made with"
                )
            found |= fresh
    return found


def language_parts(source: str) -> dict[str, Any]:
    """What a language model that is trained already is made of: its `language` and its `head`, with their settings.

    Raises InputError for a source that is none: a packaged one, a run, or a reference checkpoint's directory.
    """
    directory = place(source)
    if (run := described(directory)) is not None:
        return {part: run["model"][part] for part in ("language", "head") if part in run["model"]}
    if not directory.is_dir():
        raise unknown("language", source, (*names("language"), *_PACKAGED["language"]))
    config = files.read_config(directory)
    family = _family("language", config, directory)
    return {"language": family.language_settings(config), "head": family.head_settings(config)}


def vision_parts(source: str) -> tuple[dict[str, Any], ImageTransform | None]:
    """The settings of an encoder that is trained already, and how pictures are prepared for it, where it is told.

    Raises InputError for a source that is none: a run, or a reference checkpoint's directory.
    """
    directory = place(source)
    if not directory.is_dir() and source == "imagenet":
        raise InputError("imagenet is weights for the recipe's own vision; give init.vision=imagenet")
    if not directory.is_dir():
        raise unknown("vision", source, (*names("vision"), *(one for one in _PACKAGED["vision"] if one != "imagenet")))
    if (run := described(directory)) is not None:
        if run["model"].get("vision") is None:
            raise InputError(f"{directory} has no vision part; name a run that sees")
        image = (run.get("processor") or {}).get("image")
        return run["model"]["vision"], parse(ImageTransform, image, where="image") if image else None
    config, look = files.read_config(directory), directory / "preprocessor_config.json"
    settings = _family("vision", config, directory).encoder_settings(config)
    return settings, ImageTransform.from_huggingface(files.read_json(look)) if look.exists() else None


def _family(part: str, config: Mapping[str, Any], directory: Path) -> ModuleType:
    found = next((one for one in _FAMILIES[part] if one.matches(config)), None)
    if found is None:
        raise InputError(f"{directory} holds a {config.get('model_type')!r}, which is no {part} part that Foveal knows")
    return found


def _from_directory(part: str, directory: Path) -> dict[str, Tensor]:
    if (run := described(directory)) is not None:
        state = _run_state(directory, part)
        state = queries(state) if part == "connector" and run["model"].get("assembly") == "two_tower" else state
        return {name: weight for name, weight in state.items() if name.startswith(f"{part}.")}
    config = files.read_config(directory)
    family = _family(part, config, directory)
    if part == "connector":
        return _connector(family, config, directory)
    state = family.renaming(config).to_ours(files.read_checkpoint(directory))
    return {name: weight for name, weight in state.items() if name.startswith((f"{part}.", "head."))}


def _connector(family: ModuleType, config: Mapping[str, Any], directory: Path) -> dict[str, Tensor]:
    """The connector of a reference checkpoint; the queries of a first stage, Hugging Face's or LAVIS's."""
    learned = getattr(family, "learned", None)  # of those that lie in files of another kind
    told = files.read_checkpoint(directory) if learned is None else learned(directory, config)
    ours, _ = family.renaming(config).read(told)
    ours = queries(ours) if family in (blip2_pairs, lavis_pairs) else ours
    return {name: weight for name, weight in ours.items() if name.startswith("connector.")}


def queries(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What a Q-Former has learned in its first stage, as a connector that hears no words: these stay behind."""
    ours = {name.replace("language.", "connector.", 1): weight for name, weight in state.items()}
    return {
        name: weight
        for name, weight in ours.items()
        if name.startswith("connector.") and not name.startswith("connector.words.") and ".text_feed." not in name
    }


def _under(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: weight for name, weight in state.items()}


def initialise(model: Causal | Masked | Autoencoder | TwoTower, sources: Mapping[str, str]) -> None:
    """Fill the parts that `sources` name; every weight of such a part must come, in its shape.

    But for a Q-Former's map to the language model, which its first stage has no use for and leaves fresh.
    """
    wanted = model.state_dict()
    for part, source in sources.items():
        found = pretrained(part, source, getattr(model.config, part, None))
        absent = [name for name in wanted if name.startswith(f"{part}.") and name not in found]
        if part == "connector" and not any(name.startswith(_FRESH) for name in found):
            absent = [name for name in absent if not name.startswith(_FRESH)]
        strange = [name for name in found if name not in wanted or wanted[name].shape != found[name].shape]
        table = f"{part}.embedding.weight"
        if not absent and strange == [table] and wanted[table].shape[1:] == found[table].shape[1:]:
            raise InputError(
                f"init.{part} {source!r} has {len(found[table])} words, the recipe's {part} {len(wanted[table])}; take "
                f"its own with processor.tokenizer={place(source)}, give data with as many, or leave init.{part} out"
            )
        if absent or strange:
            raise InputError(
                f"init.{part} {source!r} does not fit the recipe's {part}: {len(absent)} weights absent, "
                f"{len(strange)} of another name or shape (first: {(absent + strange)[0]}); make their settings agree"
            )
        with torch.no_grad():
            for name, weight in found.items():
                wanted[name].copy_(weight)
