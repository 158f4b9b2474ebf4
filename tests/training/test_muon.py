import pytest
import torch

from foveal.training.muon import Muon, orthogonal


@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 6, 20), (2, 20, 6)])
def test_singular_values_come_near_one_and_directions_stay(shape):
    torch.manual_seed(0)
    matrices = torch.randn(shape)
    made = orthogonal(matrices)
    values = torch.linalg.svdvals(made)
    assert values.min() > 0.4 and values.max() < 1.3
    left, _, right = torch.linalg.svd(matrices, full_matrices=False)
    nearest = left @ right
    likeness = (made * nearest).sum((1, 2)) / (made.norm(dim=(1, 2)) * nearest.norm(dim=(1, 2)))
    assert likeness.min() > 0.95


def test_parameters_that_are_no_matrices_step_as_adamw():
    torch.manual_seed(0)
    ours = torch.nn.Parameter(torch.randn(5))
    theirs = torch.nn.Parameter(ours.detach().clone())
    pair = (
        Muon([{"params": [ours], "weight_decay": 0.1}], lr=0.01, betas=(0.9, 0.99)),
        torch.optim.AdamW([theirs], lr=0.01, betas=(0.9, 0.99), weight_decay=0.1),
    )
    for _ in range(5):
        gradient = torch.randn(5)
        for parameter, optimizer in zip((ours, theirs), pair, strict=True):
            parameter.grad = gradient.clone()
            optimizer.step()
    torch.testing.assert_close(ours, theirs)


def test_matrices_step_as_torchs_muon():
    torch.manual_seed(0)
    ours = torch.nn.Parameter(torch.randn(8, 12))
    theirs = torch.nn.Parameter(ours.detach().clone())
    pair = (
        Muon([{"params": [ours], "weight_decay": 0.1, "matrix": True}], lr=0.01, betas=(0.9, 0.99)),
        torch.optim.Muon([theirs], lr=0.01, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw"),
    )
    for _ in range(5):
        gradient = torch.randn(8, 12)
        for parameter, optimizer in zip((ours, theirs), pair, strict=True):
            parameter.grad = gradient.clone()
            optimizer.step()
    torch.testing.assert_close(ours, theirs, atol=2e-3, rtol=0)  # both multiply in bfloat16


def test_a_kernel_steps_as_the_matrix_that_it_is():
    torch.manual_seed(0)
    kernel = torch.nn.Parameter(torch.randn(4, 3, 2, 2))
    matrix = torch.nn.Parameter(kernel.detach().flatten(1).clone())
    groups = [{"params": [one], "matrix": True} for one in (kernel, matrix)]
    optimizer = Muon(groups, lr=0.01, betas=(0.9, 0.99))
    for _ in range(3):
        kernel.grad = torch.randn(4, 3, 2, 2)
        matrix.grad = kernel.grad.flatten(1).clone()
        optimizer.step()
    torch.testing.assert_close(kernel.flatten(1), matrix)


@pytest.mark.parametrize("matrix", [True, False])
def test_what_a_parameter_remembers_is_made_once(monkeypatch, matrix):
    made, zeros = [], torch.zeros_like
    parameter = torch.nn.Parameter(torch.ones(4, 3))
    optimizer = Muon([{"params": [parameter], "matrix": matrix}], lr=0.01, betas=(0.9, 0.99))
    parameter.grad = torch.ones(4, 3)
    optimizer.step()
    monkeypatch.setattr(torch, "zeros_like", lambda *given, **settings: (made.append(given), zeros(*given))[1])
    optimizer.step()
    assert made == []
