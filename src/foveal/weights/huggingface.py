"""A causal model under the argument and field names of its Hugging Face reference, and back into a checkpoint."""

import inspect
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, SupportsIndex, Unpack

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from PIL import Image
from torch import Tensor, nn

from foveal.core.errors import InputError, unknown
from foveal.core.types import IGNORE, Answer, Batch, Grid, Layout, Output, Pixels
from foveal.decode import generate as decoding
from foveal.decode.sampling import Sampling
from foveal.models.asked import Asking
from foveal.models.assembly import empty
from foveal.models.budget import allocator_of, spent, unspent
from foveal.models.causal import Causal, next_labels
from foveal.models.config import ModelConfig
from foveal.models.draw import draw
from foveal.models.talk import answer, stream_answer
from foveal.preprocess.processor import Asked, Processor
from foveal.relevance.pricing import Terms
from foveal.weights.arguments import HARMLESS, aligned, heeded, in_table
from foveal.weights.companions import carry, complete
from foveal.weights.directory import write_run
from foveal.weights.files import read_checkpoint, write_checkpoint, write_json
from foveal.weights.generation import (
    OBEYED,
    generation_settings,
    new_within,
    own_settings,
    refused,
    sampling_of,
    token_ids,
)
from foveal.weights.names import Renaming, load_strict, mixed


class HuggingFaceCausal(nn.Module):
    """`model` called as its reference is: `to_batch` takes the reference's arguments by name.

    `config` and `generation` are the contents of config.json and generation_config.json; `renaming` leads back to
    the reference's weight names; `processor` reads the checkpoint's own when it is asked in words, and `beside` is
    where the files of that lie.
    """

    def __init__(
        self,
        model: Causal,
        *,
        to_batch: Callable[..., Batch],
        renaming: Renaming,
        config: Mapping[str, Any],
        generation: Mapping[str, Any],
        processor: Callable[[], Processor],
        beside: Path | None = None,
    ) -> None:
        super().__init__()
        self.model, self.to_batch, self.renaming = model, to_batch, renaming
        self.config, self.generation, self._processor = dict(config), dict(generation), processor
        self.beside = beside

    @cached_property
    def _own(self) -> Processor:
        return self._processor()

    @property
    def processor(self) -> Processor:
        """The checkpoint's own tokenizer, image transform and chat template, read when first needed; whoever asks it
        ends an answer where `stops` does too."""
        own, ends = self._own, tuple(sorted(self.stops()))
        if own.config.ends != ends:
            own.config = replace(own.config, ends=ends)
        return own

    @processor.setter
    def processor(self, own: Processor) -> None:
        self._own = own

    def stops(self, given: Any = None) -> tuple[int, ...]:
        """The tokens that end an answer: an eos_token_id that is given, else that of `generation` as it is by now.

        Raises InputError for what is no token's number.
        """
        return token_ids(self.generation.get("eos_token_id") if given is None else given)

    def __getstate__(self) -> dict[str, Any]:
        """What a copy or a pickle keeps: all but what its config says again."""
        return {name: one for name, one in self.__dict__.items() if name not in ("to_batch", "renaming", "_own")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        from foveal.weights.families import family

        super().__setstate__(state)
        found = family(self.config, "the copy")
        self.to_batch, self.renaming = found.batcher(self.model, self.config), found.renaming(self.config)

    def answer(self, images: Any, text: str, **settings: Unpack[Asking]) -> Answer:
        """Answer a question about images (one or several: paths or opened pictures; None or [] for text alone).

        Settings: max_new_tokens, budget, price, strategy ("foveal"), videos, sampling, stop_ids, as in `Asking`. How
        words are chosen, and what ends them, is the checkpoint's own where it is not given, as in `generate`.
        """
        return answer(self.model, self.processor, images, text, **self._manner(settings))

    def stream_answer(self, images: Any, text: str, **settings: Unpack[Asking]) -> Iterator[Answer]:
        """The answer so far, after every token."""
        return stream_answer(self.model, self.processor, images, text, **self._manner(settings))

    def draw(self, asked: Sequence[Asked | str], **settings: Any) -> list[Image.Image]:
        """A picture for each prompt; raises InputError for a checkpoint that draws none."""
        return draw(self.model, self.processor, asked, **settings)

    def forward(
        self, input_ids: Int[Tensor, "B L"] | None = None, *, output_hidden_states: bool | None = None, **inputs: Any
    ) -> Output:
        """Logits `[B L V]`, the loss when `labels` are given, and hidden states when asked (before each layer, and
        the last after its norm), of the tokens that a budget of the model's own leaves. Raises InputError for an
        argument that the model does not take."""
        batch = self.batch(input_ids, **inputs)
        batch = batch if allocator_of(self.model) is None else self.spent(batch)[1]
        output = self.say(batch, keep_hidden=bool(output_hidden_states))
        if (unsaid := self.model.picture_words) is not None:
            output = replace(output, logits=decoding.in_text(output.logits, unsaid))
        return output if batch.labels is None else replace(output, loss=_loss(output.logits, next_labels(batch)))

    def say(self, batch: Batch, *, keep_hidden: bool) -> Output:
        """What the model says of a batch; a reference that tells more of the way there has more fields."""
        return self.model(batch, keep_hidden=keep_hidden)

    def generate(
        self,
        input_ids: Int[Tensor, "B L"] | None = None,
        *,
        budget: SupportsIndex | Terms | None = None,
        strategy: str = "foveal",
        **given: Any,
    ) -> Int[Tensor, "B M"]:
        """New tokens alone, greedy unless `do_sample=True`; settings not given are the checkpoint's.

        Settings: max_new_tokens (20; or max_length, with the prompt in it), eos_token_id, pad_token_id, do_sample,
        temperature, top_k, top_p, repetition_penalty. At most `budget` visual tokens of each image are read, chosen by
        the strategy. Raises InputError for a setting that would change the answer and is not there.
        """
        named = tuple(inspect.signature(self.to_batch).parameters)
        chosen = {name: given.pop(name) for name in list(given) if name not in (*named, *HARMLESS)}
        settings = {
            **own_settings(self.generation),
            **{name: value for name, value in chosen.items() if value is not None},
        }
        if strange := refused(settings):
            raise unknown("generation setting", strange[0], (*OBEYED, *named))
        stops = self.stops(chosen.get("eos_token_id"))
        pad = settings.get("pad_token_id")
        with torch.no_grad():
            whole = self.batch(input_ids, **given)
            model, batch = self.spent(whole, budget, strategy)
        if settings.get("max_new_tokens") is None and (most := chosen.get("max_length")) is not None:
            settings["max_new_tokens"] = new_within(most, whole.input_ids.shape[1])
        return decoding.generate(
            model,
            batch,
            max_new_tokens=decoding.new_tokens(20 if (new := settings.get("max_new_tokens")) is None else new),
            stop_ids=stops,
            pad_id=pad if pad is not None else (stops or (0,))[0],
            sampling=sampling_of(settings),
        )

    def batch(self, input_ids: Int[Tensor, "B L"] | None = None, **inputs: Any) -> Batch:
        """What the model reads, out of the reference's arguments; raises InputError where there is no text,
        and for text that the model cannot read."""
        known = tuple(inspect.signature(self.to_batch).parameters)
        named = inputs if input_ids is None else {known[0]: input_ids, **inputs}  # some references name it otherwise
        if named.get(known[0]) is None:
            raise InputError(f"there is no text; give {known[0]}")
        aligned(named[known[0]], named)
        batch = self.to_batch(**heeded(named, known))
        if isinstance(table := getattr(self.model.language, "embedding", None), nn.Embedding):
            in_table(batch.input_ids, table.num_embeddings)
        return batch

    def spent(
        self, batch: Batch, budget: SupportsIndex | Terms | None = None, strategy: str = "foveal"
    ) -> tuple[Causal, Batch]:
        """Who reads a batch under a budget (None: the model's own, if any), and what is left; errors as of `spent`."""
        return spent(self.model, batch, budget, strategy)

    def _manner(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The settings of an answer; raises InputError where the checkpoint's own ask for what is not there."""
        if given.get("sampling") is None:
            given = {**given, "sampling": self.sampling()}
        most = self.longest
        return {**({} if most is None else {"max_new_tokens": most}), **given}

    @property
    def longest(self) -> int | None:
        """How many tokens the checkpoint's own settings let an answer have; None: they do not say."""
        return own_settings(self.generation).get("max_new_tokens")

    def sampling(self, generator: torch.Generator | None = None) -> Sampling:
        """How the checkpoint's own settings choose words; raises InputError where they ask for what is not there."""
        own = own_settings(self.generation)
        if strange := refused(own):
            raise InputError(
                f"the checkpoint's generation_config.json asks for {strange[0]}={own[strange[0]]!r}, and no answer is "
                "written that way; give answer a sampling, such as foveal.decode.sampling.greedy, or foveal ask "
                "--top-k 1"
            )
        return sampling_of(own, generator)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write a run directory that `foveal.load` reads back, to be called as this model is.

        A processor whose files are there and that cannot be read is left out with a warning.
        """
        try:
            processor = self.processor
        except InputError as refused:  # weights alone are a checkpoint too
            processor = None
            if complete(self.beside, sees=not {"vision_config", "vit_config"}.isdisjoint(self.config)):
                warnings.warn(f"the run is saved without a processor: {refused}", stacklevel=2)
        return write_run(path, self.model, processor, origin=self.origin, beside=self.beside)

    @property
    def origin(self) -> dict[str, Any]:
        """The reference's config and generation settings."""
        return {"config": self.config, "generation": self.generation}

    def save_pretrained(self, directory: str | Path) -> None:
        """Write a checkpoint that `transformers` loads: config.json, generation_config.json, the weights, and the files
        of its processor as they came."""
        folder = Path(directory)
        write_checkpoint(folder, self.renaming.to_theirs(self.model.state_dict()))
        dtype = str(next(self.model.parameters()).dtype).removeprefix("torch.")
        older = {"torch_dtype": dtype} if "torch_dtype" in self.config else {}
        write_json(folder / "config.json", {**self.config, "dtype": dtype, **older})
        write_json(folder / "generation_config.json", self.generation)
        carry(self.beside, folder)


class OfTiles(HuggingFaceCausal):
    """One whose arguments bring tiles and do not say of which image each is, while a budget is an image's."""

    def spent(
        self, batch: Batch, budget: SupportsIndex | Terms | None = None, strategy: str = "foveal"
    ) -> tuple[Causal, Batch]:
        """The same; raises InputError where a row has several tiles and there is a budget."""
        several = batch.visual is not None and len(batch.owner) > len(batch.owner.unique())
        if several and (budget is not None or allocator_of(self.model) is not None):
            most = int(batch.owner.bincount().max())
            raise InputError(
                f"a row of {most} tiles under a budget, and input_ids and pixel_values do not say of which images they "
                "are; ask by answer(images, text), which knows it"
            )
        return super().spent(batch, budget, strategy)


def load_causal(
    directory: Path,
    model_config: ModelConfig,
    *,
    to_batch: Callable[[Causal, Mapping[str, Any]], Callable[..., Batch]],
    renaming: Renaming,
    config: Mapping[str, Any],
    state: Mapping[str, Tensor] | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    wrapper: type[HuggingFaceCausal] = HuggingFaceCausal,
) -> HuggingFaceCausal:
    """The model of a checkpoint directory, in the checkpoint's dtype unless told; strict about its weights.

    Weights of several dtypes take the config's, or that of most of them. `state` are the weights where they have been
    read already. `to_batch` makes, for the model, what turns the reference's arguments into a batch, `wrapper` is what
    the reference's class is called through.
    """
    model = empty(model_config)
    state = read_checkpoint(directory) if state is None else state
    if dtype is None and mixed(state) is not None:
        dtype = _dtype(config)
    load_strict(model, state, str(directory), renaming=renaming, dtype=dtype, device=device)
    generation = generation_settings(directory, config)
    wrapped = wrapper(
        model,
        to_batch=to_batch(model, config),
        renaming=renaming,
        config=config,
        generation=generation,
        processor=partial(Processor.from_huggingface, directory, context=getattr(model.language, "context", None)),
        beside=directory,
    )
    wrapped.stops()  # told before a word is asked
    return wrapped.eval()


def _dtype(config: Mapping[str, Any]) -> torch.dtype | None:
    """The dtype that config.json names, of floating numbers; the whole model's where parts have their own."""
    told = config.get("dtype") or config.get("torch_dtype")
    said = told.get("") if isinstance(told, Mapping) else told
    named = getattr(torch, str(said).removeprefix("torch."), None)
    return named if isinstance(named, torch.dtype) and named.is_floating_point else None


def text_batch(
    input_ids: Int[Tensor, "B L"],
    attention_mask: Int[Tensor, "B L"] | None = None,
    position_ids: Int[Tensor, "B L *A"] | None = None,
    labels: Int[Tensor, "B L"] | None = None,
) -> Batch:
    """A batch of text alone out of what a Hugging Face tokenizer returns."""
    valid = torch.ones_like(input_ids, dtype=torch.bool) if attention_mask is None else attention_mask.bool()
    return Batch(
        input_ids=input_ids,
        valid=valid,
        prompt=valid if labels is None else valid & ((labels != IGNORE).cumsum(1) == 0),
        image_slot=torch.full_like(input_ids, -1),
        labels=labels,
        positions=position_ids,
        full=attention_mask is None or (not torch.compiler.is_compiling() and bool(valid.all())),
    )


def with_images(
    batch: Batch, marked: Bool[Tensor, "B L"], pixel_values: Float[Tensor, "I C H W"] | None, *, model: Causal
) -> Batch:
    """The batch with images in the marked places, one visual token a place, in order.

    Raises InputError where there are more or fewer places than the images bring tokens.
    """
    sizes: list[Grid] = []
    if pixel_values is not None:
        sizes = [(pixel_values.shape[-2], pixel_values.shape[-1])] * len(pixel_values)
    layout = unspent(model).plan(sizes) if sizes else Layout.of_grids([])
    if int(marked.sum()) != layout.total:
        raise InputError(
            f"{int(marked.sum())} image tokens in input_ids but {len(sizes)} images bring {layout.total}; "
            "give both as the checkpoint's processor returns them"
        )
    if pixel_values is None:
        return batch
    slots = torch.where(marked, marked.flatten().cumsum(0).view_as(marked) - 1, -1)
    owner = marked.nonzero()[:, 0][torch.tensor(layout.offsets[:-1], device=marked.device)]
    return replace(batch, image_slot=slots, visual=Pixels.whole(pixel_values), owner=owner)


def _loss(logits: Float[Tensor, "B L V"], labels: Int[Tensor, "B M"]) -> Float[Tensor, ""]:
    return F.cross_entropy(logits[:, :-1].float().flatten(0, 1), labels.flatten(), ignore_index=IGNORE)
