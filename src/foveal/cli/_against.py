"""The same checkpoint by transformers itself, as the side that `foveal bench` compares with."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from foveal.core.errors import InputError
from foveal.core.example import is_film

if TYPE_CHECKING:
    from foveal.cli._benched import Wish


class Theirs:
    """A checkpoint's model and processor as transformers opens them, with its default attention."""

    def __init__(self, wish: "Wish") -> None:
        """Raises InputError for a directory that transformers does not open as a model that writes."""
        from foveal.cli._benched import clock
        from foveal.core.machine import device

        if any(map(is_film, wish.images)):
            raise InputError(f"videos are not compared with transformers; leave --against {wish.against} out")
        self.wish, self.device = wish, torch.device(device())
        self.model, self.processor = _opened(wish)
        self.model.to(self.device)
        self.images = wish.pictures() if hasattr(self.processor, "image_processor") else []
        self.clock, self.said, self.tokens = clock(self.device), None, 0
        self.visual_tokens: int | None = None  # which it does not tell

    @torch.inference_mode()
    def __call__(self) -> dict[str, float]:
        """Seconds by part: the pictures and words prepared, seen, and an answer written."""
        from foveal.evaluation.bench import paces

        start = self.clock()
        inputs = self._inputs()
        told = {"prepare": self.clock() - start}
        self.tokens = inputs["input_ids"].shape[1]
        told |= self._seen(inputs)
        ticks, new = [self.clock()], self.wish.new
        hook = self.model.get_output_embeddings().register_forward_hook(lambda *_: ticks.append(self.clock()))
        try:
            said = self.model.generate(**inputs, max_new_tokens=new)
        finally:
            hook.remove()
        self.said = said[:, -new:]
        return told | paces(ticks)

    def _seen(self, inputs: dict[str, Any]) -> dict[str, float]:
        """Seconds of the encoder and the connector; nothing of a model that does not offer them alone."""
        see = getattr(self.model, "get_image_features", None)
        if see is None or not self.images:
            return {}
        given = {name: value for name, value in inputs.items() if name in inspect.signature(see).parameters}
        start = self.clock()
        see(**given)
        return {"see": self.clock() - start}

    def _inputs(self) -> dict[str, Any]:
        """What its processor makes of the question, in every row; InputError where it does not take that."""
        ask = self._chat if getattr(self.processor, "chat_template", None) else self._bare
        try:
            return dict(ask().to(self.device))
        except (ValueError, TypeError, RuntimeError, IndexError) as error:
            raise InputError(
                f"transformers' processor does not take this question ({_line(error)}); ask another, or leave "
                "--against out"
            ) from None

    def _chat(self) -> Any:
        """By the checkpoint's template."""
        shown: Any = [{"type": "image", "image": one} for one in self.images]
        asked = [*shown, {"type": "text", "text": self.wish.prompt}] if shown else self.wish.prompt
        way: Any = {"add_generation_prompt": True, "tokenize": True, "return_dict": True, "return_tensors": "pt"}
        return self.processor.apply_chat_template([[{"role": "user", "content": asked}]] * self.wish.rows, **way)

    def _bare(self) -> Any:
        """Without one: the images before the words, marked where the processor does not mark them itself."""
        marks = "" if hasattr(self.processor, "num_query_tokens") else getattr(self.processor, "image_token", "<image>")
        texts = [f"{str(marks) * len(self.images)}{self.wish.prompt}"] * self.wish.rows
        shown = {"images": self.images * self.wish.rows} if self.images else {}
        return self.processor(text=texts, **shown, return_tensors="pt")


def _opened(wish: "Wish") -> tuple[Any, Any]:
    """The model, of images or else of words alone, and the processor or tokenizer."""
    from transformers import (
        AutoConfig,
        AutoModelForCausalLM,
        AutoModelForImageTextToText,
        AutoProcessor,
        GenerationMixin,
    )

    way: Any = {"local_files_only": True, "trust_remote_code": False}
    try:
        with _hushed():
            config = AutoConfig.from_pretrained(str(wish.run), **way)
            known = type(config) in AutoModelForImageTextToText._model_mapping
            kind: Any = AutoModelForImageTextToText if known else AutoModelForCausalLM
            model = kind.from_pretrained(str(wish.run), dtype=getattr(torch, wish.dtype), **way)
            processor = AutoProcessor.from_pretrained(str(wish.run), **way)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"transformers does not open {wish.run} ({_line(error)}); leave --against out") from None
    for part in model.modules():  # some write by a model within them, and its settings
        if isinstance(part, GenerationMixin) and part.generation_config is not None:
            part.generation_config = _plain(part.generation_config)
    return model.eval(), processor


def _plain(known: Any) -> Any:
    """Generation settings by which the best token is taken, with a cache, and nothing ends an answer: Foveal's side."""
    from transformers import GenerationConfig

    begins = {name: getattr(known, name) for name in ("bos_token_id", "decoder_start_token_id")}
    return GenerationConfig(pad_token_id=known.pad_token_id or 0, **begins)


def _line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


@contextmanager
def _hushed() -> Iterator[None]:
    """Within it transformers shows no bars of its own and warns of nothing."""
    from transformers.utils import logging

    known, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(known)
        if bars:
            logging.enable_progress_bar()
