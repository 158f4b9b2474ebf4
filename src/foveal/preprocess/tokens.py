"""Rendered conversations to token ids, cut so that a prompt has the same ids with and without its answer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from tokenizers import Tokenizer

from foveal.core.errors import InputError
from foveal.core.example import Example
from foveal.preprocess.chat import Span

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, kw_only=True, eq=False)
class Encoded:
    """One tokenised conversation, its images still one entry each: image k stands as -1 - k in `ids`.

    An image whose tiles are spelled one by one has an entry for each of them.

    `loss` is True on the tokens of answers (their end included); `prompt` counts the entries before the first answer.
    `fills` are the ids in the places of each image's tokens, where these are not those of any image.
    `rows` are the conversations that it is read as, where it has choices: one for each.
    """

    example: Example
    ids: np.ndarray
    loss: np.ndarray
    prompt: int
    where: str
    rows: tuple["Encoded", ...] = ()
    fills: tuple[int, ...] = ()


class Coder:
    """Token ids of spans; each answer that is learned is tokenised apart from what stands before it.

    An image in an answer carries a loss only where the model `draws`.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", marker: str, *, draws: bool = False) -> None:
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise InputError(f"{type(tokenizer).__name__} is a slow tokenizer; convert it to a tokenizer.json first")
        self.draws = draws
        self.known = marker in tokenizer.get_vocab()
        self.backend = Tokenizer.from_str(backend.to_str())  # a copy: the marker must not enter what is saved
        self.backend.no_truncation()
        self.backend.no_padding()
        if marker not in {token.content for token in self.backend.get_added_tokens_decoder().values()}:
            self.backend.add_special_tokens([marker])
        self.marker: int = self.backend.token_to_id(marker) or 0
        self.word = marker
        bare = tokenizer.encode("a", add_special_tokens=False)
        full = tokenizer.encode("a")
        self.head = full[: full.index(bare[0])] if bare and bare[0] in full else []
        self.opening, self.eos = str(tokenizer.bos_token or ""), str(tokenizer.eos_token or "")
        self.special: tuple[int, ...] = tuple(tokenizer.all_special_ids)
        self.eos_id = _index(tokenizer.eos_token_id)
        self.mask_id = _index(tokenizer.mask_token_id)
        pad = _index(tokenizer.pad_token_id)
        self.pad_id: int = pad if pad is not None else self.eos_id or 0
        self.fill_id: int = self.marker if self.known else self.pad_id
        alone = self.bare("a")  # the same as after a space: this tokenizer puts a space before a text
        self.adds_space = self.bare("b a")[-len(alone) :] == alone

    def bare(self, text: str) -> list[int]:
        """The ids of a text with nothing put before it."""
        return self.backend.encode(text, add_special_tokens=False).ids

    def __call__(self, spans: Sequence[Span]) -> tuple[np.ndarray, np.ndarray]:
        """Ids (image k as -1 - k) and where a loss is wanted."""
        ids, loss, _ = self.parted(spans)
        return ids, loss

    def parted(self, spans: Sequence[Span]) -> tuple[np.ndarray, np.ndarray, int]:
        """The same, and how many tokens stand before the first answer, learned or said."""
        ids: list[int] = []
        loss: list[bool] = []
        before = None
        begun = spans[0].text.replace(self.word, "") if spans else ""
        if not (self.opening and begun.startswith(self.opening)):  # some write it themselves, after images or before
            ids, loss = list(self.head), [False] * len(self.head)
        for text, answer, said in _pieces(spans):
            if answer and self.adds_space and text.startswith(" "):
                text, answer = text[1:], answer - 1
            coded = self.backend.encode(text, add_special_tokens=False)
            if said is not None and before is None:
                before = len(ids) + sum(end <= said for _, end in coded.offsets)
            ids += coded.ids
            loss += [start < answer for start, _ in coded.offsets]
        made, wanted = self._marked(np.array(ids, np.int64), np.array([False, *loss[1:]] if loss else [], bool))
        learned = np.flatnonzero(wanted)[:1].tolist()
        return made, wanted, min([*learned, len(made) if before is None else before])

    def _marked(self, ids: np.ndarray, loss: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        places = np.flatnonzero(ids == self.marker)
        ids[places] = -1 - np.arange(len(places))
        loss[places] &= self.draws
        return ids, loss


def _index(token: object) -> int | None:
    return token if isinstance(token, int) else None


def _pieces(spans: Sequence[Span]) -> list[tuple[str, int, int | None]]:
    """Text, how many of its first letters are an answer, and where what was said begins; answers begin pieces."""
    pieces: list[tuple[str, int, int | None]] = []
    for span in spans:
        if span.answer:
            pieces.append((span.text, len(span.text), None))
            continue
        text, answer, said = pieces.pop() if pieces else ("", 0, None)
        said = len(text) if said is None and span.said else said
        pieces.append((text + span.text, answer, said))
    return pieces


def encoded(
    example: Example, spans: Sequence[Span], coder: Coder, where: str, *, spelled: Sequence[int] | None = None
) -> Encoded:
    """The conversation's tokens; raises InputError where the template lost or doubled an image.

    `spelled` says how many markers in a row stand for each image (None: one).
    """
    ids, loss, prompt = coder.parted(spans)
    images = int((ids < 0).sum())
    if spelled is not None and images == sum(spelled):
        ids[ids < 0] = -1 - np.repeat(np.arange(len(spelled)), spelled)
        images = len(spelled)
    if images != len(example.images):
        raise InputError(
            f"{where} has {len(example.images)} images but its chat template wrote {images} markers; "
            "choose another template"
        )
    if not len(ids):
        raise InputError(f"{where} has no text at all; give it a question")
    return Encoded(example=example, ids=ids, loss=loss, prompt=prompt, where=where)
