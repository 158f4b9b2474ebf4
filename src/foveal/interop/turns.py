"""What generate() counts by the keys of its cache, counted by the columns of its prompt where a cut left fewer keys."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from foveal.core.errors import InputError
from foveal.interop.columns import recall
from foveal.interop.pictures import NATIVE, OUT
from foveal.interop.told import Told


class Turns:
    """The prompts that generate() of a model goes on from, thread by thread, until `remove`.

    A conversation that goes on from a cache is handed on without the tokens that were read, cut ones among them.
    """

    def __init__(self, head: Any, config: Any) -> None:
        self._word, self._native = config.image_token_id, config.model_type in NATIVE
        self._prompts: dict[int, int] = {}  # how long they are
        self._next: dict[int, tuple[int, Any]] = {}  # the same of the pass that is about to be made, and its shape
        self._drafted: set[int] = set()  # where the first pass brings tokens that an assistant proposes
        self._told = [Told(head, "prepare_inputs_for_generation", self._prepared, self._unread)]
        self._told.append(Told(head, "generate", within=self._apart))
        calls = {"_prefill": self._began, "_prepare_position_ids_for_generation": self._placed}
        self._told += [Told(head, name, change=change) for name, change in calls.items() if hasattr(head, name)]
        if hasattr(head, "_get_candidate_generator"):
            self._told.append(Told(head, "_get_candidate_generator", self._assisted))

    def remove(self) -> None:
        """Leave the model's methods as they were."""
        for told in reversed(self._told):
            told.remove()

    def prompt(self, given: dict[str, Any]) -> int | None:
        """How long the prompt of the pass is that is about to be made; None: generate() does not make it."""
        length, shape = self._next.pop(threading.get_ident(), (None, None))
        return length if shape == _shape(given) else None

    @contextmanager
    def _apart(self) -> Iterator[None]:
        """A generate() within another, as a logits processor may call it, leaves the other's prompt as it was."""
        thread = threading.get_ident()
        prompt, drafted = self._prompts.pop(thread, None), thread in self._drafted
        self._drafted.discard(thread)
        try:
            yield
        finally:
            self._prompts.pop(thread, None)
            self._next.pop(thread, None)
            self._drafted.discard(thread)
            if prompt is not None:
                self._prompts[thread] = prompt
            if drafted:
                self._drafted.add(thread)

    def _began(self, given: dict[str, Any]) -> dict[str, Any]:
        if given.get("is_first_iteration", True):
            self._drafted.discard(threading.get_ident())
        ids, chunk = given["input_ids"], given["generation_config"].prefill_chunk_size
        if chunk is None:
            return given
        before = recall(given["model_kwargs"].get("past_key_values"))
        if before is not None or (ids.shape[1] > chunk and bool((ids == self._word).any())):
            raise InputError(
                f"chunked prefill (prefill_chunk_size={chunk}) would read images in parts, and the budget is of whole "
                f"ones; leave prefill_chunk_size out, or {OUT}"
            )
        return given

    def _assisted(self, told: Told, given: dict[str, Any], made: Any) -> None:
        if recall(given["model_kwargs"].get("past_key_values")) is not None:
            raise InputError(
                "an assistant or prompt lookup behind a cache would have all of it read again; leave these out, or "
                "give the whole conversation without past_key_values"
            )
        thread = threading.get_ident()
        self._prompts[thread] = given["input_ids"].shape[1]
        self._drafted.add(thread)

    def _unread(self, given: dict[str, Any]) -> dict[str, Any]:
        """The prefill asks for as many tokens as there are more than keys: those that were cut are not new."""
        seen, new = recall(given.get("past_key_values")), given.get("next_sequence_length")
        if seen is None or new is None or seen.saved == 0:
            return given
        length, held = _length(given), int(given["past_key_values"].get_seq_length())
        if new != length - held:  # it writes on, and counts what it wrote
            return given
        if new <= seen.saved:
            raise InputError(
                f"a prompt of {length} tokens for a cache that has read {held + seen.saved}; give the whole "
                "conversation, what was read and what is new, or what is new with an attention_mask of the whole"
            )
        return {**given, "next_sequence_length": new - seen.saved}

    def _placed(self, given: dict[str, Any]) -> dict[str, Any]:
        """Kinds of tokens that were read are not those of a new image, which only the user can place in a later turn.

        transformers wants the grids of all images for that, and then takes their pixels for new.
        """
        named, ids = given["model_kwargs"], given["inputs_tensor"]
        seen, kinds = recall(named.get("past_key_values")), named.get("mm_token_type_ids")
        if seen is None or not self._native or ids.ndim != 2:  # vectors stand on no axes but that of the text
            return given
        past = int(named["past_key_values"].get_seq_length()) + seen.saved
        if bool((ids[:, past if ids.shape[1] >= past else 0 :] == self._word).any()):
            raise InputError(
                f"an image behind {past} tokens that generate() has in its cache, and no positions for it; give the "
                "conversation anew, without past_key_values and with all images"
            )
        return given if kinds is None else {**given, "model_kwargs": {**named, "mm_token_type_ids": 0 * kinds}}

    def _prepared(self, told: Told, given: dict[str, Any], made: Any) -> None:
        """generate() goes on: without a cache, what it has written comes again, and does not steer."""
        thread = threading.get_ident()
        begins = bool(given.get("is_first_iteration")) and thread not in self._drafted
        if begins or thread not in self._prompts:
            self._prompts[thread] = _length(given)
        if given.get("is_first_iteration"):
            self._drafted.discard(thread)
        self._next[thread] = self._prompts[thread], _shape(made)


def _shape(given: dict[str, Any]) -> torch.Size | None:
    """Of the words or vectors that a pass reads."""
    read = given.get("inputs_embeds") if given.get("input_ids") is None else given["input_ids"]
    return None if read is None else read.shape


def _length(given: dict[str, Any]) -> int:
    embeds = given.get("inputs_embeds") if given.get("is_first_iteration") else None
    return (given["input_ids"] if embeds is None else embeds).shape[1]
