"""Rows that join others on the way, and leave them, go on as each does alone: whatever the cache holds of them."""

import pytest
import torch
from PIL import Image

from foveal.core.errors import InputError
from foveal.decode.generate import generate, go_on, join, read, ready
from foveal.layers.gates import Gate
from foveal.models.assembly import assemble
from foveal.models.budget import budgeted
from foveal.models.config import ModelConfig
from foveal.models.talk import prompted
from foveal.preprocess.chat import question
from foveal.preprocess.processor import Processor, ProcessorConfig
from foveal.preprocess.transform import ImageTransform
from foveal.preprocess.words import word_tokenizer

VIT = {"name": "vit", "width": 16, "depth": 2, "heads": 2, "inner": 16, "patch": 4, "image_size": 16}
LATENTS = {"name": "perceiver", "latents": 6, "depth": 1, "heads": 2, "head_width": 8}
GATED = {"name": "gated_cross_attention", "every": 1, "heads": 2, "head_width": 8}
KINDS = {
    "llama": {},
    "windowed": {"language": {"window": 7}},
    "m_rope": {"language": {"rope": {"sections": [2, 1, 1], "interleaved": True}}},
    "flamingo": {"connector": LATENTS, "fusion": GATED},
    "flamingo that sees all": {"connector": LATENTS, "fusion": {**GATED, "looks": "all", "blind": "mean"}},
    "deepstack": {"vision": {**VIT, "levels": [1]}, "fusion": {"name": "deepstack", "after": [0]}},
    "dense_sparse": {"fusion": {"name": "dense_sparse"}},
    "falling": {"language": {"name": "gpt", "steepest": 8.0}},
    "learned": {"language": {"name": "opt"}},
}
ASKED = [("one two", 1), ("a fox and a cat one two three four five", 0), ("three", 2), ("two one two", 0)]
SPENT = {"all": (None, "foveal"), "within": (3, "fastv"), "by steps": (3, "pyramid_drop"), "before": (3, "foveal")}
STEPS = 9


def made(kind):
    """A model of a kind with words and gates that are open, and what makes batches for it."""
    torch.manual_seed(0)
    tokenizer = word_tokenizer([text for text, _ in ASKED])
    parts = dict(KINDS[kind])
    language = {"name": "decoder", "width": 32, "depth": 4, "deviation": 0.5} | parts.pop("language", {})
    parts = {"vision": VIT, "connector": "linear", **parts, "language": {**language, "vocabulary": len(tokenizer)}}
    model = assemble(ModelConfig.parse(parts)).eval()
    for part in model.modules():
        if isinstance(part, Gate):
            torch.nn.init.constant_(part.weight, 0.7)
    lying = "grid" if kind == "m_rope" else "line"
    config = ProcessorConfig(image=ImageTransform(size=16), context=200, positions=lying)
    return model, Processor(tokenizer=tokenizer, config=config)


def begun(model, processor, number, way="all", more=0):
    """One row that has read its own question, about so many more pictures than it shows."""
    text, shown = ASKED[number][0], ASKED[number][1] + more
    noise = torch.Generator().manual_seed(number)
    pictures = [torch.randint(0, 255, (16, 16, 3), generator=noise).byte().numpy() for _ in range(shown)]
    asked = question([Image.fromarray(one) for one in pictures], text, marker=processor.config.marker)
    model, batch, _ = prompted(model, processor, [asked], *SPENT[way], room=STEPS)
    return read(model, ready(model, batch, [STEPS]), [STEPS])


@torch.no_grad()
def alone(model, rows):
    """Scores of every step of one row."""
    scores = [rows.scores]
    for _ in range(STEPS - 1):
        rows = go_on(model, rows, rows.scores.argmax(-1))
        scores.append(rows.scores)
    return torch.cat(scores)


@torch.no_grad()
def coming_and_going(model, parts, ends):
    """The same of rows of which one more comes with every second step, and each leaves after so many steps of its own.

    Caches have room for no more than the steps until the next row comes or goes.
    """
    told, rows, here, waiting = [[] for _ in parts], None, [], list(range(len(parts)))
    while waiting or here:
        if waiting and (rows is None or len(told[here[-1]]) == 2):
            new = waiting.pop(0)
            some = [(rows, range(len(here)))] if rows is not None else []
            here = [*here, new]
            rows = join([*some, (parts[new], [0])], room=min(ends[one] - len(told[one]) for one in here))
        for one, scores in zip(here, rows.scores, strict=True):
            told[one].append(scores)
        stay = [place for place, one in enumerate(here) if len(told[one]) < ends[one]]
        if len(stay) < len(here):
            here = [here[place] for place in stay]
            room = min((ends[one] - len(told[one]) for one in here), default=0)
            rows = join([(rows, stay)], room=room) if here else None
        if here:
            rows = go_on(model, rows, rows.scores.argmax(-1))
    return [torch.stack(one) for one in told]


def check(model, parts, expected, ends):
    for found, whole in zip(coming_and_going(model, parts, ends), expected, strict=True):
        assert found.argmax(-1).tolist() == whole[: len(found)].argmax(-1).tolist()
        torch.testing.assert_close(found, whole[: len(found)], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_who_comes_and_goes_goes_on_as_alone(kind):
    model, processor = made(kind)
    with torch.no_grad():
        expected = [alone(model, begun(model, processor, number)) for number in range(4)]
        for ends in ([9, 3, 6, 9], [5, 9, 4, 1]):
            check(model, [begun(model, processor, number) for number in range(4)], expected, ends)


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0)])
def test_rows_under_several_budgets_go_on_together(order):
    model, processor = made("llama")
    ways = [[*SPENT][place] for place in order]
    with torch.no_grad():
        parts = [[begun(model, processor, number, way, 1) for number, way in enumerate(ways)] for _ in range(2)]
        assert len({rows.cache.lengths for rows in parts[0]}) == 4
        check(model, parts[0], [alone(model, rows) for rows in parts[1]], [9, 3, 6, 9])


def test_what_is_left_of_rows_takes_no_more_room_than_they_need():
    model, processor = made("dense_sparse")
    with torch.no_grad():
        long, short = begun(model, processor, 2), begun(model, processor, 3)
        both = join([(long, [0]), (short, [0])], room=4)
        left = join([(both, [1])], room=8)
    assert both.cache.lengths == long.cache.lengths and not both.full
    assert left.cache.lengths == short.cache.lengths and left.full
    assert left.cache.size == short.cache.size and left.cache.length == short.cache.length


def test_rows_are_read_together_with_a_room_of_their_own():
    model, processor = made("llama")
    asked = [question([], text, marker=processor.config.marker) for text, _ in ASKED[:2]]
    batch = processor.prompt(asked, plan=model.plan)
    lengths = batch.valid.sum(1).tolist()
    left = [model.language.context - length for length in lengths]
    with torch.no_grad():
        rows = read(model, ready(model, batch, left), left)
        assert rows.cache.length == max(lengths) + min(left) - 1
    with pytest.raises(InputError, match=f"a prompt of {lengths[0]} tokens and {left[0] + 1} new ones"):
        ready(model, batch, [left[0] + 1, left[1]])
    together = generate(model, batch, max_new_tokens=1)
    assert together[:, 0].tolist() == rows.scores.argmax(-1).tolist()


def test_rows_that_were_joined_are_still_there():
    model, processor = made("llama")
    with torch.no_grad():
        one, other = begun(model, processor, 0), begun(model, processor, 1)
        expected = alone(model, begun(model, processor, 0))
        go_on(model, join([(one, [0]), (other, [0])], room=3), torch.tensor([1, 2]))
        torch.testing.assert_close(alone(budgeted(model, None), one), expected)
