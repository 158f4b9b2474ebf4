"""Checkpoints of others, served: conversations with tiles, native sizes and gates together as alone."""

from dataclasses import replace

import pytest

from foveal.cli._serve_speaker import Speaker
from foveal.front import load
from tests.cli.test_serve_desk import answered, said
from tests.preprocess.test_areas import KINDS
from tests.preprocess.test_areas import checkpoint as native  # noqa: F401
from tests.preprocess.test_own_processors import checkpoint as own  # noqa: F401
from tests.preprocess.test_own_processors import picture

TALKS = [
    said("what is there? ", images=[picture((30, 50))]),
    said("and what is there? ", images=[picture((16, 16), 1), picture((90, 21), 2)]),
    said("hello"),
    said("what?", "a cat", "and now?", images=[picture((20, 20), 3)]),
]


def together_as_alone(folder, budget):
    speaker = Speaker(load(folder), longest=12)
    talks = [replace(talk, budget=budget) for talk in TALKS]
    together = answered(speaker, *talks)
    assert together == [answered(speaker, talk)[0] for talk in talks]
    seen = [ended.answer.visual_tokens for _, ended in together]
    assert seen[2] == 0 and (seen[0], seen[1], seen[3]) == (2, 4, 2) if budget else min(seen[0], seen[1], seen[3]) > 2


@pytest.mark.parametrize("budget", [None, 2])
@pytest.mark.parametrize("kind", ["idefics3", "llava_next", "mllama", "ovis2"])
def test_tiles_and_gates(own, kind, budget):  # noqa: F811
    together_as_alone(own(kind)[0], budget)


@pytest.mark.parametrize("budget", [None, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_native_sizes(native, kind, budget):  # noqa: F811
    together_as_alone(native(kind)[0], budget)
