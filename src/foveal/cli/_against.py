"""The same checkpoint by transformers itself, as the side that `foveal bench` compares with."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from foveal.core.errors import InputError

if TYPE_CHECKING:
    from foveal.cli._benched import Wish


class Theirs:
    """A checkpoint's model and processor as transformers opens them, with its default attention."""

    def __init__(self, wish: "Wish") -> None:
        """Raises InputError for a directory that transformers does not open as a model that writes."""
        from foveal.cli._benched import clock
        from foveal.core.machine import device

        self.wish, self.device = wish, torch.device(device())
        self.model, self.processor = _opened(wish)
        self.images = wish.pictures() if hasattr(self.processor, "image_processor") else []
        self.model.to(self.device).generation_config.eos_token_id = None  # so that both sides write as many tokens
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
            said = self.model.generate(**inputs, max_new_tokens=new, do_sample=False)
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
        """What its processor makes of the question, in every row."""
        parts: Any = [
            *({"type": "image", "image": one} for one in self.images),
            {"type": "text", "text": self.wish.prompt},
        ]
        asked = parts if self.images else self.wish.prompt
        if getattr(self.processor, "chat_template", None):
            way: Any = {"add_generation_prompt": True, "tokenize": True, "return_dict": True, "return_tensors": "pt"}
            made = self.processor.apply_chat_template([[{"role": "user", "content": asked}]] * self.wish.rows, **way)
        else:
            marks = str(getattr(self.processor, "image_token", "<image>")) * len(self.images)
            texts = [f"{marks}{self.wish.prompt}"] * self.wish.rows
            shown = {"images": self.images * self.wish.rows} if self.images else {}
            made = self.processor(text=texts, **shown, return_tensors="pt")
        return dict(made.to(self.device))


def _opened(wish: "Wish") -> tuple[Any, Any]:
    """The model, of images or else of words alone, and the processor or tokenizer."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, AutoProcessor

    way: Any = {"local_files_only": True}
    try:
        with _hushed():
            config = AutoConfig.from_pretrained(str(wish.run), **way)
            known = type(config) in AutoModelForImageTextToText._model_mapping
            kind: Any = AutoModelForImageTextToText if known else AutoModelForCausalLM
            model = kind.from_pretrained(str(wish.run), dtype=getattr(torch, wish.dtype), **way)
            return model.eval(), AutoProcessor.from_pretrained(str(wish.run), **way)
    except (OSError, ValueError, KeyError) as error:
        line = next(iter(str(error).splitlines()), type(error).__name__)
        raise InputError(f"transformers does not open {wish.run} ({line}); leave --against out") from None


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
