"""What queries hear of a question, in the words of a vocabulary of their own (InstructBLIP, 2305.06500)."""

from collections.abc import Sequence
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
    rows = [torch.tensor(listener(said(one.example))["input_ids"]) for one in asked]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-1)[owner]


def said(example: Example) -> str:
    """The words of a conversation, without its images."""
    texts: list[str] = []
    for message in example.messages:
        content = message["content"]
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        texts += [part["text"] for part in parts if part["type"] == "text"]
    return "\n".join(texts)
