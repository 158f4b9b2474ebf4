"""Foveal's own format: a run directory holds config.yaml, model.safetensors and the processor's files."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, SupportsIndex, Unpack

import torch
from jaxtyping import Int
from PIL import Image
from torch import Tensor, nn

from foveal.core.errors import InputError
from foveal.core.example import Box
from foveal.core.types import Answer, Batch, Output, Reconstruction
from foveal.decode.choose import choose
from foveal.decode.generate import generate
from foveal.models.asked import Asking
from foveal.models.assembly import empty
from foveal.models.autoencoder import Autoencoder
from foveal.models.budget import spent
from foveal.models.causal import Causal
from foveal.models.config import ModelConfig
from foveal.models.detect import detect
from foveal.models.draw import draw
from foveal.models.masked import Masked
from foveal.models.talk import stream_answer
from foveal.models.tell import sparing
from foveal.models.two_tower import TwoTower
from foveal.preprocess.processor import Asked, Processor
from foveal.relevance.pricing import Terms
from foveal.weights import families
from foveal.weights.directory import fingerprint, is_run, read_config, write_run
from foveal.weights.files import read_checkpoint
from foveal.weights.huggingface import HuggingFaceCausal
from foveal.weights.names import load_strict
from foveal.weights.pretrained import external, pretrained
from foveal.weights.proposals import finder


class Run(nn.Module):
    """A model with its processor: called with a Batch, asked with images and words, saved as a directory."""

    def __init__(
        self,
        model: Causal | Masked | Autoencoder | TwoTower,
        processor: Processor | None = None,
        *,
        external: Mapping[str, str] | None = None,
        origin: Mapping[str, Any] | None = None,
        about: Mapping[str, Any] | None = None,
        beside: Path | None = None,
    ) -> None:
        super().__init__()
        self.model, self.processor, self.beside = model, processor, beside
        self.external, self.origin, self.about = dict(external or {}), dict(origin or {}), dict(about or {})

    def forward(self, batch: Batch, **wanted: Any) -> Output | Reconstruction:
        """The model's output for a batch."""
        return self.model(batch, **wanted)

    def generate(
        self,
        batch: Batch,
        *,
        max_new_tokens: int,
        budget: SupportsIndex | Terms | None = None,
        strategy: str = "foveal",
        **settings: Any,
    ) -> Int[Tensor, "B M"]:
        """New tokens alone, stopping at the processor's stop tokens; or what it chooses, as its processor reads it.

        At most `budget` visual tokens of each image are read, of those that the batch was laid out for.
        """
        model = self._speaker()
        with torch.no_grad():
            model, batch = spent(model, batch, budget, strategy)
        if isinstance(model, Masked):
            return choose(model, batch)
        stops = self.processor.stop_ids if self.processor is not None else ()
        return generate(model, batch, **{"stop_ids": stops, **settings, "max_new_tokens": max_new_tokens})

    def answer(self, images: Any, text: str, **settings: Unpack[Asking]) -> Answer:
        """Answer a question about images (one or several: paths or opened pictures; None or [] for text alone).

        Settings: max_new_tokens (64; where a run spells, of a caption alone, and all it has learned), budget, price,
        strategy ("foveal"), videos, sampling (greedy), stop_ids, as in `Asking`. Raises InputError for another.
        """
        *_, last = self.stream_answer(images, text, **settings)
        return last

    def stream_answer(self, images: Any, text: str, **settings: Unpack[Asking]) -> Iterator[Answer]:
        """The answer so far, after every token; a run that spells tells all of one picture at once (`tell.sparing`)."""
        model, talker = self._speaker(), self._talker()
        if talker.speller is not None:
            return iter([sparing(model, talker, images, text, **settings)])
        return stream_answer(model, talker, images, text, **settings)

    def detect(self, images: Sequence[Any], **settings: Any) -> list[tuple[Box, ...]]:
        """The objects in each picture, the surest first; raises InputError for a run that finds none."""
        return detect(self._speaker(), self._talker(), images, **settings)

    def draw(self, asked: Sequence[Asked | str], **settings: Any) -> list[Image.Image]:
        """A picture for each prompt; raises InputError for a run that draws none."""
        return draw(self._speaker(), self._talker(), asked, **settings)

    def _speaker(self) -> Causal | Masked:
        if isinstance(self.model, Autoencoder):
            raise InputError(
                "this run is an image tokenizer, which neither reads nor writes words; score it with foveal eval, or "
                "train a model over it: foveal train chameleon init.vision=RUN"
            )
        if isinstance(self.model, TwoTower):
            raise InputError(
                "this run tells which texts and images belong together and answers no question; score it with foveal "
                "eval --pretraining, or train a model over it: foveal train blip2 init.connector=RUN"
            )
        return self.model

    def _talker(self) -> Processor:
        if self.processor is None:
            raise InputError("this model has no processor, so it takes a Batch but no words; give its config one")
        return self.processor

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write a run directory that `foveal.load` reads back to bit-equal logits."""
        told = {"external": self._packaged(), "origin": self.origin, "about": self.about}
        return write_run(path, self.model, self.processor, beside=self.beside, **told)

    def _packaged(self) -> dict[str, str]:
        """The parts whose weights are still those of an installed package; what has learned since is written."""
        state = self.model.state_dict()

        def same(part: str, source: str) -> bool:
            mine = {name: weight for name, weight in state.items() if name.startswith(f"{part}.")}
            return fingerprint(mine) == fingerprint(pretrained(part, source, getattr(self.model.config, part)))

        return {part: source for part, source in self.external.items() if same(part, source)}


def matches(directory: Path) -> bool:
    """Whether a directory is a run of ours."""
    return is_run(directory)


def load(
    directory: Path,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    put_in: Callable[[Any], None] | None = None,
) -> Run | HuggingFaceCausal:
    """A run from its directory; one that began as a reference checkpoint is called as that reference.

    Parts whose weights are not in the directory are `put_in` before the others are read. Raises InputError for a weight
    that is missing, unexpected or mis-shaped.
    """
    described = read_config(directory / "config.yaml")
    model = empty(ModelConfig.parse(described["model"]))
    if put_in is not None:
        put_in(model)
    state = read_checkpoint(directory) | external(described, model.config, directory)
    load_strict(model, state, str(directory), dtype=dtype, device=device)
    model.eval()
    settings, origin = described.get("processor"), described.get("origin")
    processor = Processor.from_settings(settings, directory) if settings is not None else None
    if processor is not None:
        processor.find = finder(processor.config, device=device)
    if origin:
        return families.wrapped(model, origin, partial(_present, processor, directory), where=directory).eval()
    sources = {part: entry["source"] for part, entry in (described.get("external") or {}).items()}
    return Run(model, processor, external=sources, about=described.get("about") or {}).eval()


def _present(processor: Processor | None, directory: Path) -> Processor:
    if processor is None:
        raise InputError(f"{directory} was written without a processor, so it cannot be asked in words")
    return processor
