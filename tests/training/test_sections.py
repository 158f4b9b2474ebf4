"""Who of a pipeline holds what."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foveal.core.errors import InputError
from foveal.models.budget import budgeted
from foveal.training.config import Stage, TrainingConfig
from foveal.training.sections import check, cut, holders, sections

FLAMINGO = {"name": "gated_cross_attention", "every": 2, "heads": 2, "head_width": 8}


def test_layers_are_cut_by_hand():
    assert cut([1, 1, 1, 1], 2) == (range(0, 2), range(2, 4))
    assert cut([1, 1, 1, 1], 2, first=2) == (range(0, 1), range(1, 4))
    assert cut([1, 1, 1, 1], 4, last=9) == tuple(range(i, i + 1) for i in range(4))
    assert cut([5, 1, 1, 1], 2) == (range(0, 1), range(1, 4))


@given(st.lists(st.integers(1, 9), min_size=1, max_size=7), st.data())
def test_no_other_cut_is_lighter_at_its_heaviest(loads, data):
    from itertools import combinations

    count = data.draw(st.integers(1, len(loads)))
    first, last = data.draw(st.tuples(st.integers(0, 9), st.integers(0, 9)))

    def heaviest(rows):
        held = [sum(loads[i] for i in row) for row in rows]
        held[0] += first
        held[-1] += last
        return max(held)

    rows = cut(loads, count, first=first, last=last)
    assert [i for row in rows for i in row] == [*range(len(loads))] and all(rows) and len(rows) == count
    others = combinations(range(1, len(loads)), count - 1)
    best = min(heaviest([*map(range, (0, *ends), (*ends, len(loads)))]) for ends in others)
    assert heaviest(rows) == best


def test_more_processes_than_layers_are_refused():
    with pytest.raises(InputError, match="2 layers for 3 processes"):
        cut([1, 1], 3)


def test_every_weight_lies_somewhere_and_the_tied_table_at_both_ends(world):
    model = world.model(depth=4)
    rows = sections(model, 3)
    found = holders(model, rows)
    assert set(found) == {*model.parameters(), *model.buffers()}
    assert found[model.language.embedding.weight] == (0, 2)
    assert {found[one] for part in (model.vision, model.connector) for one in part.parameters()} == {(0,)}
    for place, row in enumerate(rows):
        assert {found[one] for i in row for one in model.language.layers[i].parameters()} == {(place,)}


def test_a_block_lies_where_its_layer_is(world):
    model = world.model(depth=4, fusion=FLAMINGO)
    found = holders(model, (range(0, 2), range(2, 4)))
    assert [{found[one] for one in model.fusion.block(i).parameters()} for i in (1, 3)] == [{(0,)}, {(1,)}]


def refused(model, processes=2, **settings):
    stage = Stage(steps=1, objective=settings.pop("objective", "next_token"))
    config = TrainingConfig(stages=(stage,), **{"pipeline": 2, **settings})
    with pytest.raises(InputError) as error:
        check(model, config, processes=processes)
    (line,) = str(error.value).splitlines()
    return line


def test_what_does_not_fit_a_pipeline_is_refused_in_one_line(world):
    model = world.model()
    check(model, TrainingConfig(pipeline=2), processes=4)
    assert "a training of 1 process; start 2" in refused(model, processes=1)
    assert "a training of 3 processes" in refused(model, processes=3)
    assert "has 2 layers" in refused(model, processes=3, pipeline=3)
    assert "training.zero 2; take one" in refused(model, zero=2)
    assert "the objective 'joint'" in refused(model, objective="joint")
    thinning = {"name": "dense_sparse", "keep": [1, 0.5], "layers": [1], "by": "norm"}
    assert "'dense_sparse' lets visual tokens leave" in refused(world.model(fusion=thinning))
    assert "the model's allocator lets" in refused(budgeted(world.model(depth=4), 2, "fastv"))
    within = world.model()
    within.config = replace(within.config, assembly="masked")
    assert "the assembly masked" in refused(within)
    with pytest.raises(InputError, match=r"training\.pipeline is 0; give 1"):
        TrainingConfig(pipeline=0)
