import pytest
import torch

from foveal.layers.norms import HeadNorm, RMSNorm


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_mean_square_of_one_times_the_gain(dtype):
    torch.manual_seed(0)
    norm = RMSNorm(16, eps=1e-6).to(dtype)
    norm.weight.data.uniform_(0.5, 2)
    hidden = 3 * torch.randn(4, 16, dtype=dtype)
    expected = hidden.double() / hidden.double().square().mean(-1, keepdim=True).sqrt() * norm.weight.double()
    tolerance = 2e-2 if dtype == torch.bfloat16 else 1e-5
    torch.testing.assert_close(norm(hidden).double(), expected, atol=tolerance, rtol=tolerance)
    assert norm(hidden).dtype == dtype


def test_both_ways_to_compute_give_the_same_bits():
    torch.manual_seed(0)
    norm = RMSNorm(48, eps=1e-5)
    norm.weight.data.uniform_(0.5, 2)
    hidden = torch.randn(3, 48)
    exact = hidden * torch.rsqrt(hidden.square().mean(-1, keepdim=True) + 1e-5)
    assert torch.equal(norm(hidden), norm.weight * exact)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("gain", [torch.float32, torch.bfloat16])
def test_without_gradients_the_same_bits_and_what_is_read_stays(dtype, gain):
    torch.manual_seed(0)
    norm = RMSNorm(48, eps=1e-5).to(gain)
    hidden = torch.randn(3, 48).to(dtype)
    before = hidden.clone()
    with torch.no_grad():
        made = norm(hidden)
    assert made.dtype == norm(hidden).dtype and torch.equal(made, norm(hidden))
    assert torch.equal(hidden, before)


def test_many_gains_at_once_in_half_precision():
    norm, hidden = RMSNorm(64, eps=1e-6).bfloat16(), torch.randn(2, 5, 64).bfloat16()
    gains = torch.rand(3, 64).bfloat16()
    with torch.no_grad():
        made = torch.func.vmap(lambda gain: torch.func.functional_call(norm, {"weight": gain}, (hidden,)))(gains)
        norm.weight.copy_(gains[2])
        assert torch.equal(made[2], norm(hidden))


def test_epsilon_keeps_a_zero_vector_finite():
    assert torch.equal(RMSNorm(8, eps=1e-5)(torch.zeros(1, 8)), torch.zeros(1, 8))


def test_each_head_has_a_gain_and_a_shift_of_its_own():
    torch.manual_seed(0)
    norm, states = HeadNorm(3, 8), torch.randn(2, 5, 3, 8)
    norm.weight.data.uniform_(0.5, 2)
    norm.bias.data.normal_()
    for head in range(3):
        expected = torch.nn.functional.layer_norm(states[..., head, :], (8,), norm.weight[head], norm.bias[head])
        torch.testing.assert_close(norm(states)[..., head, :], expected)
