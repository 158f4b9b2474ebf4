import pytest
import torch

from foveal.evaluation.reconstruction import psnr, usage


def test_peak_signal_to_noise_is_that_of_each_picture():
    wanted = torch.full((3, 3, 4, 4), 0.5)
    made = wanted + torch.tensor([0.1, 0.0, 9.0]).view(3, 1, 1, 1)
    assert psnr(made, wanted).tolist() == pytest.approx([20.0, 100.0, 6.0206], abs=1e-3)  # 9.5 is shown as 1


def test_usage_counts_the_codes_that_were_taken():
    found = usage(torch.tensor([1, 1, 3, 3]), 5)
    assert (found.codes, found.used, found.perplexity) == (5, 2, pytest.approx(2))
