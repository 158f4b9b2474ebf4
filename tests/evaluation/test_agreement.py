import math

import pytest
import torch

from foveal.core.errors import InputError
from foveal.decode.sampling import greedy
from foveal.evaluation.agreement import Heard, divergence, flips


def test_flips_are_the_share_of_other_answers():
    assert flips(["a", "b", "c", "d"], ["a", "x", "c", "y"]) == 0.5
    assert flips([], []) == 0
    with pytest.raises(InputError, match="1 answers beside 2"):
        flips(["a"], ["a", "b"])


def test_divergence_is_from_the_whole_model_in_nats():
    whole = torch.tensor([[0.5, 0.5], [1.0, 0.0]]).log()
    said = torch.tensor([[0.25, 0.75], [0.5, 0.5]]).log()
    first = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    assert divergence(said, whole) == pytest.approx((first + math.log(2)) / 2)
    assert divergence(whole, whole) == 0  # a word of no chance counts nothing
    rounded = divergence(whole - 1e-9, whole), divergence(whole + 1e-7, whole)
    assert rounded[0] >= 0 and f"{round(rounded[1], 6)}" == "0.0", "what rounding leaves is no less than nothing"
    assert math.isnan(divergence(whole * torch.nan, whole))
    assert divergence(torch.randn(3, 5).log_softmax(-1), torch.randn(3, 5).log_softmax(-1)) > 0


def test_the_first_words_are_heard_and_what_is_written_stays():
    heard, prompt = Heard(greedy), torch.zeros(2, 3, dtype=torch.long)
    assert heard.first is None
    logits = torch.randn(2, 7)
    for length in (0, 1, 2):
        new = torch.zeros(2, length, dtype=torch.long)
        assert torch.equal(heard(logits + length, prompt, new), greedy(logits + length))
    heard(logits[:1] * 2, prompt[:1], prompt[:1, :0])
    assert heard.first is not None and heard.first.shape == (3, 7)
    torch.testing.assert_close(heard.first[:2], logits.log_softmax(-1))
