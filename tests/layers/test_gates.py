import torch

from foveal.layers.gates import Gate


def test_a_closed_gate_lets_nothing_through_and_learns():
    gate, hidden = Gate(), torch.randn(2, 3)
    assert torch.equal(gate(hidden), torch.zeros(2, 3))
    gate(hidden).sum().backward()
    torch.testing.assert_close(gate.weight.grad, hidden.sum()[None])


def test_each_number_may_have_its_own():
    gate, hidden = Gate(width=3, start=0.5), torch.randn(2, 3)
    with torch.no_grad():
        gate.weight[1] = 0.0
    said = gate(hidden)
    torch.testing.assert_close(said[:, 0], hidden[:, 0] * torch.tensor(0.5).tanh())
    assert (said[:, 1] == 0).all()
