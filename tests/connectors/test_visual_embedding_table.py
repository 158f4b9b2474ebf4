import pytest
import torch
import torch.nn.functional as F

from foveal.connectors.visual_embedding_table import (
    VisualEmbeddingTable,
    gumbel_noise,
    likeliest,
    sampled,
    shares,
)
from foveal.core.errors import InputError
from foveal.core.types import Layout, VisualTokens


def table(seed=0, **settings):
    torch.manual_seed(seed)
    return VisualEmbeddingTable(width_in=4, width_out=6, **{"entries": 9, **settings})


def tokens(*grids, seed=1):
    layout = Layout.of_grids(list(grids))
    features = torch.randn(layout.total, 4, generator=torch.Generator().manual_seed(seed))
    return VisualTokens.on_layout(features, layout)


def test_a_token_is_a_mean_of_rows_by_its_distribution():
    connector, seen = table(indicators=3), tokens((2, 3))
    made = connector(seen)
    logits = F.layer_norm(seen.features @ connector.head.weight.T, (9,))
    torch.testing.assert_close(made.classes, logits.softmax(-1))
    torch.testing.assert_close(made.features, made.classes @ connector.table.weight[:9])
    assert torch.equal(made.marks, connector.table.weight[9:])
    assert made.layout == seen.layout


@pytest.mark.parametrize("choice", ["argmax", "argmax_of_logits", "gumbel"])
def test_a_choice_is_one_row_exactly(choice):
    connector, seen = table(choice=choice).eval(), tokens((2, 3))
    made = connector(seen)
    assert torch.equal(made.features, connector.table.weight[made.classes.argmax(-1)])
    assert torch.equal(connector(seen).features, made.features)  # nothing is drawn in answering


def test_straight_through_gradients_of_both_kinds():
    """Ovis 2.0 lets them pass as if the logits had been taken, transformers as if the softmax had."""
    logits, pull = torch.randn(5, 7, requires_grad=True), torch.randn(5, 7)
    (gradient,) = torch.autograd.grad((likeliest(logits, logits) * pull).sum(), logits)
    assert torch.equal(gradient, pull)
    (gradient,) = torch.autograd.grad((likeliest(logits, shares(logits)) * pull).sum(), logits)
    (wanted,) = torch.autograd.grad((logits.softmax(-1) * pull).sum(), logits)
    torch.testing.assert_close(gradient, wanted)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 5.0])
def test_gumbel_is_torchs(temperature):
    logits, pull = torch.randn(5, 7, requires_grad=True), torch.randn(5, 7)
    torch.manual_seed(3)
    wanted = F.gumbel_softmax(logits, tau=temperature, hard=True, dim=-1)
    torch.manual_seed(3)
    mine = sampled(logits, gumbel_noise(logits), temperature)
    torch.testing.assert_close(mine, wanted)
    torch.testing.assert_close(*(torch.autograd.grad((one * pull).sum(), logits)[0] for one in (mine, wanted)))


def test_entries_are_drawn_as_often_as_they_are_likely():
    logits = torch.tensor([[0.0, 1.0, -1.0]]).expand(20000, 3)
    torch.manual_seed(0)
    often = sampled(logits, gumbel_noise(logits), 1.0).mean(0)
    torch.testing.assert_close(often, logits[0].softmax(-1), atol=0.02, rtol=0.0)


def test_what_is_drawn_when():
    seen = tokens((6, 6))
    quiet, loud = table(choice="gumbel"), table(choice="gumbel", drawn="always")
    assert not torch.equal(quiet.train()(seen).features, quiet(seen).features)
    assert torch.equal(quiet.eval()(seen).features, quiet(seen).features)
    assert not torch.equal(loud.eval()(seen).features, loud(seen).features)


def test_the_temperature_falls_in_a_straight_line():
    """Ovis' own: 5 to 0.05 over a run."""
    connector = table(choice="gumbel", temperature=5.0, last_temperature=0.05)
    assert connector.temperature == 5.0
    connector.at_progress(0.5)
    assert connector.temperature == pytest.approx(2.525)
    connector.at_progress(1.0)
    assert connector.temperature == pytest.approx(0.05)
    steady = table(choice="gumbel", temperature=2.0)
    steady.at_progress(0.7)
    assert steady.temperature == 2.0


def test_a_lower_temperature_has_a_sharper_gradient():
    connector, seen = table(choice="gumbel", temperature=5.0, last_temperature=0.5).eval(), tokens((3, 3))
    sizes = []
    for done in (0.0, 1.0):
        connector.at_progress(done)
        (gradient,) = torch.autograd.grad(connector(seen).features.square().sum(), connector.head.weight)
        sizes.append(gradient.norm())
    assert sizes[1] > 2 * sizes[0]


def test_cells_are_folded_and_what_is_missing_is_nothing():
    connector, seen = table(factor=2), tokens((3, 5), (2, 2))
    made = connector(seen)
    assert made.layout == connector.plan(seen.layout) == Layout.of_grids([(2, 3), (1, 1)])
    maps = torch.zeros(4, 6, 4)
    maps[:3, :5] = seen.features[:15].view(3, 5, 4)
    blocks = maps.view(2, 2, 3, 2, 4).transpose(1, 2).reshape(6, 16)
    logits = F.layer_norm(blocks @ connector.head.weight.T, (9,))
    torch.testing.assert_close(made.classes[:6], logits.softmax(-1))
    assert made.mass.tolist() == [4, 4, 2, 2, 2, 1, 4]
    torch.testing.assert_close(made.boxes[5], torch.tensor([0.8, 2 / 3, 1.0, 1.0]))
    assert made.boxes[6].tolist() == [0, 0, 1, 1]


def test_softmax_is_whole_in_half_precision():
    connector = table(entries=4096).to(torch.bfloat16)
    made = connector(tokens((4, 4)).to(torch.bfloat16))
    assert made.classes.dtype == torch.float32 and made.features.dtype == torch.bfloat16
    torch.testing.assert_close(made.classes.sum(-1), torch.ones(16))


def test_it_tells_how_many_entries_are_in_use():
    connector = table(entries=50, choice="argmax").train()
    told = connector.told()
    assert told["codes_perplexity"] == pytest.approx(50) and told["codes_dead"] == 0
    seen = tokens((1, 3))
    for _ in range(300):
        chosen = connector(seen).classes.argmax(-1)
    told = connector.told()
    assert told["codes_dead"] == 50 - len(chosen.unique())
    assert told["codes_perplexity"] < 4
    before = connector.usage.clone()
    connector.eval()(seen)
    assert torch.equal(connector.usage, before)
    assert not any("usage" in name for name in connector.state_dict())


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"entries": 0}, "a table of 0 entries"),
        ({"temperature": 0.0}, "temperatures of 0.0 and None"),
        ({"last_temperature": -1.0}, "temperatures of 1.0 and -1.0"),
        ({"factor": 0}, "factor of 0"),
    ],
)
def test_numbers_out_of_range_are_refused(settings, said):
    with pytest.raises(InputError, match=said):
        table(**settings)


def test_tokens_on_no_grid_are_not_folded():
    seen = VisualTokens.on_layout(torch.randn(3, 4), Layout(counts=(3,), grids=(None,)))
    assert table()(seen).layout == seen.layout
    with pytest.raises(InputError, match="tokens of image 0 lie on none"):
        table(factor=2)(seen)
