import pytest
import torch

from foveal.core.errors import InputError
from foveal.decode.generate import generate
from foveal.evaluation.bench import in_turns, paces, written
from tests.tiny import tiny_run


def test_sides_take_turns_and_ratios_are_of_one_round():
    order, first, second = [], iter([9.0, 1.0, 2.0, 4.0]), iter([9.0, 2.0, 1.0, 2.0])

    def side(name, seconds):
        def answer():
            order.append(name)
            return {"answer": next(seconds)} | ({"choose": 1.0} if name == "b" else {})

        return answer

    told = in_turns({"a": side("a", first), "b": side("b", second)}, rounds=3)
    assert order == ["a", "b"] * 4  # the first of which is not counted
    assert (told["a"]["answer"].seconds, told["a"]["answer"].ratio) == (2.0, 1.0)
    assert (told["b"]["answer"].seconds, told["b"]["answer"].ratio) == (2.0, 0.5)  # of 2, 0.5 and 0.5
    assert told["b"]["choose"].ratio is None


def test_no_rounds_are_refused():
    with pytest.raises(InputError, match="0 rounds of measuring; give 1 or more"):
        in_turns({"a": dict}, rounds=0)


def test_the_pace_of_an_answer():
    assert paces([1.0, 4.0, 5.0, 5.5, 7.5]) == {"first": 3.0, "token": 1.0, "answer": 6.5}
    assert paces([1.0, 4.0]) == {"first": 3.0, "answer": 3.0}


def test_what_is_timed_is_what_generate_writes_and_nothing_ends_it():
    run, ticks = tiny_run(["where is the fox"]), iter(range(100))
    asked = [("a fox",), ("where",)]
    batch = run.processor.prompt([(None, words) for (words,) in asked], plan=run.model.plan)
    taken, said = written(run.model, batch, new=7, clock=lambda: float(next(ticks)))
    assert torch.equal(said, generate(run.model, batch, max_new_tokens=7)) and said.shape == (2, 7)
    assert taken == {"first": 1.0, "token": 1.0, "answer": 7.0}
