"""Foveal's own format: a run directory holds config.yaml, model.safetensors and the processor's files."""

import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from jaxtyping import Int
from torch import Tensor, nn

from foveal.core.errors import InputError, unknown
from foveal.core.types import Answer, Batch, Output
from foveal.decode.generate import generate
from foveal.models.causal import Causal, empty
from foveal.models.config import ModelConfig
from foveal.models.talk import answer, question, stream_answer
from foveal.preprocess.processor import Processor
from foveal.weights.files import read_checkpoint, write_checkpoint
from foveal.weights.names import load_strict
from foveal.weights.pretrained import pretrained

FORMAT = 1
_KEYS = ("foveal", "model", "processor", "external", "about")


@dataclass(frozen=True, kw_only=True)
class External:
    """A part whose weights come with an installed package and are not written again: its source and fingerprint."""

    source: str
    sha256: str


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """What config.yaml says; `about` is a free record of how the run was made."""

    model: ModelConfig
    processor: Mapping[str, Any] | None = None
    external: Mapping[str, External] = field(default_factory=dict)
    about: Mapping[str, Any] = field(default_factory=dict)


class Run(nn.Module):
    """A model with its processor: called with a Batch, asked with images and words, saved as a directory."""

    def __init__(
        self,
        model: Causal,
        processor: Processor | None = None,
        *,
        external: Mapping[str, str] | None = None,
        about: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.model, self.processor = model, processor
        self.external, self.about = dict(external or {}), dict(about or {})

    def forward(self, batch: Batch, **wanted: Any) -> Output:
        """The model's output for a batch."""
        return self.model(batch, **wanted)

    def generate(self, batch: Batch, *, max_new_tokens: int, **settings: Any) -> Int[Tensor, "B M"]:
        """New tokens alone; stops at the processor's stop tokens."""
        stops = self.processor.stop_ids if self.processor is not None else ()
        return generate(self.model, batch, **{"stop_ids": stops, **settings, "max_new_tokens": max_new_tokens})

    def answer(self, images: Any, text: str, **settings: Any) -> Answer:
        """Answer a question about images (one or several: paths or opened pictures; None or [] for text alone)."""
        return answer(self.model, self._talker(), question(images, text), **settings)

    def stream_answer(self, images: Any, text: str, **settings: Any) -> Iterator[Answer]:
        """The answer so far, after every token."""
        return stream_answer(self.model, self._talker(), question(images, text), **settings)

    def _talker(self) -> Processor:
        if self.processor is None:
            raise InputError("this model has no processor, so it takes a Batch but no words; give its config one")
        return self.processor

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write a run directory that `foveal.load` reads back to bit-equal logits; each file appears whole."""
        folder = Path(path)
        folder.mkdir(parents=True, exist_ok=True)
        state = self.model.state_dict()
        external = {}
        for part, source in self.external.items():
            mine = {name: state.pop(name) for name in list(state) if name.startswith(f"{part}.")}
            external[part] = {"source": source, "sha256": fingerprint(mine)}
        write_checkpoint(folder, state)
        described: dict[str, Any] = {"foveal": FORMAT, "model": self.model.config.dump()}
        if self.processor is not None:
            self.processor.save(folder)
            described["processor"] = self.processor.settings()
        described |= {"external": external, "about": self.about}
        fresh = folder / "config.yaml.tmp"
        fresh.write_text(yaml.safe_dump(described, sort_keys=False), encoding="utf-8")
        fresh.replace(folder / "config.yaml")
        return folder


def matches(directory: Path) -> bool:
    """Whether a directory is a run of ours."""
    return (directory / "config.yaml").is_file()


def load(directory: Path, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> Run:
    """A run from its directory; raises InputError for a weight that is missing, unexpected or mis-shaped."""
    described = _described(directory / "config.yaml")
    model = empty(ModelConfig.parse(described["model"]))
    state = read_checkpoint(directory)
    external = described.get("external") or {}
    for part, entry in external.items():
        fresh = pretrained(part, entry["source"], getattr(model.config, part))
        if fingerprint(fresh) != entry["sha256"]:
            raise InputError(
                f"{directory}: its {part} was made with other weights than the installed {entry['source']!r} ones; "
                "install the version it was made with"
            )
        state |= fresh
    load_strict(model, state, str(directory), dtype=dtype, device=device)
    settings = described.get("processor")
    processor = Processor.from_settings(settings, directory) if settings is not None else None
    sources = {part: entry["source"] for part, entry in external.items()}
    return Run(model.eval(), processor, external=sources, about=described.get("about") or {})


def _described(path: Path) -> dict[str, Any]:
    try:
        described = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not YAML: {str(error).splitlines()[0]}") from None
    if not isinstance(described, dict) or "model" not in described:
        raise InputError(f"{path} describes no model; give the directory of a run that foveal train wrote")
    for key in described:
        if key not in _KEYS:
            raise unknown(f"key in {path}:", str(key), _KEYS)
    if described.get("foveal") != FORMAT:
        raise InputError(f"{path} has format {described.get('foveal')!r}, this Foveal reads {FORMAT}; update Foveal")
    return described


def fingerprint(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, shapes and float32 bytes, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(f"{name}{tuple(state[name].shape)}".encode())
        digest.update(state[name].detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()
