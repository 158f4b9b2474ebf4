"""Which row of a batch an image stands in, told by the marked places that its tokens take."""

from collections.abc import Sequence
from itertools import accumulate

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from foveal.core.errors import InputError

_WAY = "give both as the checkpoint's processor returns them"


def rows_of(marked: Bool[Tensor, "B L"], counts: Sequence[int], what: str) -> Int[Tensor, " I"]:
    """The row of each image (or `what` it is) of so many tokens, which stand in the marked places in order.

    Raises InputError where there are more or fewer places than tokens, and for an image that would stand in two rows.
    """
    rows = marked.nonzero()[:, 0]
    if len(rows) != sum(counts):
        raise InputError(
            f"{len(rows)} {what} tokens in input_ids but {len(counts)} {what}s bring {sum(counts)}; {_WAY}"
        )
    ends = torch.tensor(list(accumulate(counts)), dtype=torch.long, device=rows.device)
    begun, done = rows[ends - torch.tensor(counts, dtype=torch.long, device=rows.device)], rows[ends - 1]
    if parted := (begun != done).nonzero().flatten().tolist():
        one = parted[0]
        raise InputError(
            f"{what} {one} brings {counts[one]} tokens, which begin in row {int(begun[one])} of input_ids and end in "
            f"row {int(done[one])}; {_WAY}"
        )
    return begun
