"""A model exports as it stands: no count of a tensor's entries is asked on the way."""

from dataclasses import replace

import pytest
import torch

from foveal.core.lookup import names
from foveal.core.types import Fan, Pixels
from foveal.models.budget import ROOM
from foveal.models.causal import assemble
from foveal.models.config import ModelConfig
from tests.fusion.test_dense_sparse_ways import packed
from tests.fusion.thinned import SELECTORS, batch_of, images, model_of, same
from tests.models.test_causal import TINY, asked


class Exported(torch.nn.Module):
    """Logits alone, from plain tensors."""

    def __init__(self, model, batch):
        super().__init__()
        self.model, self.batch = model, batch

    def forward(self, input_ids, image_slot, pixels):
        visual = Pixels.whole(pixels)
        return self.model(replace(self.batch, input_ids=input_ids, image_slot=image_slot, visual=visual)).logits


def test_export_gives_the_same_logits():
    torch.manual_seed(0)
    model = assemble(ModelConfig.parse(TINY)).eval()
    batch = asked(model)
    given = (batch.input_ids, batch.image_slot, batch.visual.values)
    with torch.no_grad():
        program = torch.export.export(Exported(model, batch), given)
        torch.testing.assert_close(program.module()(*given), model(batch).logits, atol=1e-5, rtol=1e-5)


WITHIN = {"fastv": {"layer": 1}, "pyramid_drop": {"stages": 2}}  # those that cut in the layers, of which there are two


@pytest.mark.parametrize("strategy", sorted(names(ROOM)))
def test_a_model_that_spends_a_budget_exports_too(strategy):
    torch.manual_seed(0)
    settings = {"name": strategy, "budget": 3, **WITHIN.get(strategy, {})}
    model = assemble(ModelConfig.parse({**TINY, "allocator": settings})).eval()
    batch = asked(model)
    given = (batch.input_ids, batch.image_slot, batch.visual.values)
    with torch.no_grad():
        program = torch.export.export(Exported(model, batch), given)
        other = (given[0].flip(1), given[1], torch.randn_like(given[2]))
        logits = Exported(model, batch)(*other)
        torch.testing.assert_close(program.module()(*other), logits, atol=1e-5, rtol=1e-5)
        assert not torch.allclose(logits, model(batch).logits, atol=1e-3)


class Thinned(torch.nn.Module):
    """Logits and what the layers say, from plain tensors."""

    def __init__(self, model, batch):
        super().__init__()
        self.model, self.batch = model, batch

    def forward(self, words, features, relevance):
        visual = replace(self.batch.visual, features=features, relevance=relevance)
        output = self.model(replace(self.batch, **words, visual=visual), keep_hidden=True)
        return output.logits, output.hidden_states


def plain(batch):
    words = {name: getattr(batch, name) for name in ("input_ids", "valid", "prompt", "image_slot")}
    return words, batch.visual.features, batch.visual.relevance


def program_of(model, batch):
    return torch.export.export(Thinned(model, batch), plain(batch)).module()


ONE, OTHER = images(8, 8), images(8, 8, seed=2)


@pytest.mark.parametrize("by", SELECTORS)
def test_a_model_whose_tokens_thin_out_exports_as_many_as_planned(by):
    model, batch = model_of(by=by), batch_of([[7, -1, 5, 4], [3, 2, -2, 9]], ONE)
    program = program_of(model, batch)
    with torch.no_grad():
        for one in batch, batch_of([[1, 2, 3, -1], [-2, 5, 9, 6]], OTHER):
            (logits, states), made = program(*plain(one)), model(one, keep_hidden=True)
            same(logits, made.logits)
            assert [state.shape[1] for state in states[1:4]] == [11, 7, 5]
            for state, expected in zip(states, made.hidden_states, strict=True):
                same(state, expected)


PAIRS = {
    "several images a row": ([[7, -1, 5, -2, 4], [-3, 3, 9, 8, -4]], images(8, 3, 3, 8), images(8, 3, 3, 8, seed=2)),
    "rows of other lengths": ([[7, -1, 5, 4], [3, -2]], ONE, OTHER),
    "images of other sizes": ([[7, -1, 5, 4], [3, 2, -2, 9, 8, 6]], images(8, 6), images(8, 6, seed=2)),
    "more in one row": ([[7, -1, 5, -2], [3, -3]], images(8, 8, 8), images(8, 8, 8, seed=2)),
    "a row of text": ([[7, -1, 5, 4], [3, 2]], images(8), images(8, seed=2)),
}


@pytest.mark.parametrize("case", PAIRS)
def test_rows_that_differ_export_too(case):
    rows, one, other = PAIRS[case]
    model, batch = model_of(by="attention"), batch_of(rows, one)
    program = program_of(model, batch)
    with torch.no_grad():
        for another in batch, batch_of(rows[::-1], other, side="left"):
            same(program(*plain(another))[0], model(another).logits)


def test_packed_rows_and_branches_export_too():
    model, branched = model_of(by="norm"), batch_of([[7, -1, 5, 4, 3, 2], [3, -2, 9, 8, 7, 6]], ONE)
    branched = replace(branched, branch=torch.tensor([[0] * 9 + [1, 1, 2, 2]] * 2), full=False)
    fanned = replace(branched, fan=Fan(trunk=9, branches=2, length=2))
    with torch.no_grad():
        for one in packed()[0], branched, fanned:
            same(program_of(model, one)(*plain(one))[0], model(one).logits)


def test_what_is_exported_refuses_rows_with_fewer_images():
    program = program_of(model_of(by="norm"), batch_of([[7, -1, *range(1, 10)], [*range(1, 11), -2]], ONE))
    other = batch_of([[7, -1, -2, 4], [*range(1, 19)]], OTHER)
    with pytest.raises(RuntimeError, match="fewer images than others, or with a part of one; exported, give each row"):
        program(*plain(other))
