"""Where who spends a budget acts."""

import torch

from foveal.models.seats import _untaught


def test_who_judges_untaught_draws_nothing_and_learns_as_any_module():
    _untaught.cache_clear()
    before = torch.get_rng_state()
    with torch.inference_mode():
        judge = _untaught(torch.device("cpu"))
    assert torch.equal(torch.get_rng_state(), before)
    assert not any(part.is_inference() for part in judge.parameters())
