"""What queries hear of a question, in the words of a vocabulary of their own (InstructBLIP, 2305.06500)."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import takewhile
from typing import TYPE_CHECKING

import torch
from jaxtyping import Int
from torch import Tensor

from foveal.core.example import Example
from foveal.preprocess.tokens import Encoded

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def heard(
    listener: "PreTrainedTokenizerBase | None", asked: Sequence[Encoded], owner: Int[Tensor, " I"]
) -> Int[Tensor, "I Q"] | None:
    """What is asked about each image, by its row, with -1 behind shorter texts; None where nobody listens."""
    if listener is None or not len(owner):
        return None
    return _padded([listener(said(one.example))["input_ids"] for one in asked])[owner]


def taught(
    listener: "PreTrainedTokenizerBase | None", groups: Sequence[Sequence[Encoded]], places: Sequence[Sequence[int]]
) -> Int[Tensor, "I Q"] | None:
    """The same where answers are learned: what stands before the first of them, and of a group what all begin with.

    `places` holds the images of each group; one of several hears its first.
    """
    owner = {image: number for number, images in reversed(list(enumerate(places))) for image in images}
    if listener is None or not owner:
        return None
    rows = _padded([listener(_shared([said(_asked(one.example)) for one in group]))["input_ids"] for group in groups])
    return rows[torch.tensor([owner[image] for image in range(len(owner))])]


def _asked(example: Example) -> Example:
    """The conversation up to its first answer."""
    roles = [message.get("role") for message in example.messages]
    return replace(example, messages=example.messages[: roles.index("assistant")]) if "assistant" in roles else example


def _shared(texts: Sequence[str]) -> str:
    """The words that all begin with."""
    alike = takewhile(lambda words: len(set(words)) == 1, zip(*(text.split(" ") for text in texts), strict=False))
    return " ".join(words[0] for words in alike)


def _padded(rows: Sequence[Sequence[int]]) -> Int[Tensor, "R Q"]:
    return torch.nn.utils.rnn.pad_sequence(list(map(torch.tensor, rows)), batch_first=True, padding_value=-1)


def said(example: Example) -> str:
    """The words of a conversation, without its images."""
    texts: list[str] = []
    for message in example.messages:
        content = message["content"]
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        texts += [part["text"] for part in parts if part["type"] == "text"]
    return "\n".join(texts)
