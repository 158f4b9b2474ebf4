"""Questions for tests of what scores answers."""

from foveal.core.example import Example
from foveal.evaluation.questions import Question


def ask(truth, *, answers=(), scene="s", kind="k", id="", **example):
    made = Example(id=id, messages=(), **example)
    return Question(id=id, scene=scene, kind=kind, text="?", truth=truth, answers=tuple(answers), example=made)
