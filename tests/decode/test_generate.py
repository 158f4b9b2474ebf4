from dataclasses import replace

import pytest
import torch

from foveal.core.errors import InputError
from foveal.core.types import Batch, Layout, VisualTokens
from foveal.decode.generate import generate, left_padded, new_tokens, spoken, stream
from foveal.models.causal import assemble
from foveal.models.config import ModelConfig

WORDS, SEEN = 40, 12


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    vision = {"name": "vit", "width": SEEN, "depth": 1, "heads": 2, "inner": 16, "patch": 4, "image_size": 8}
    language = {"name": "decoder", "vocabulary": WORDS, "width": 32, "depth": 2, "context": 32, "deviation": 0.3}
    return assemble(ModelConfig.parse({"vision": vision, "connector": "linear", "language": language})).eval()


IMAGES = 2
LAYOUT = Layout(counts=(3,) * IMAGES, grids=(None,) * IMAGES)
ROWS = [[5, "image 0", 7, 8], [9], ["image 1", 11]]


def batch_of(rows, side="right"):
    """Rows of words and images of three tokens, padded at a side."""
    ids, slots, owner = [], [], []
    for i, row in enumerate(rows):
        ids.append([])
        slots.append([])
        for part in row:
            image = int(part.split()[1]) if isinstance(part, str) else None
            ids[-1] += [part] if image is None else [0] * 3
            slots[-1] += [-1] if image is None else [3 * image + k for k in range(3)]
            owner += [] if image is None else [i]
    width = max(map(len, ids))

    def padded(row, filler):
        padding = [filler] * (width - len(row))
        return padding + row if side == "left" else row + padding

    valid = torch.tensor([padded([True] * len(row), False) for row in ids])
    torch.manual_seed(2)
    return Batch(
        input_ids=torch.tensor([padded(row, 1) for row in ids]),
        valid=valid,
        prompt=valid,
        image_slot=torch.tensor([padded(row, -1) for row in slots]),
        visual=VisualTokens.on_layout(torch.randn(LAYOUT.total, SEEN), LAYOUT),
        owner=torch.tensor(owner, dtype=torch.long),
    )


def slowly(model, row, new):
    """The whole sequence again for every token."""
    batch = batch_of([row])
    for _ in range(new):
        with torch.no_grad():
            token = model(batch).logits[:, -1].argmax(-1, keepdim=True)
        parts = {"input_ids": token, "valid": token >= 0, "prompt": token < 0, "image_slot": torch.full_like(token, -1)}
        batch = replace(batch, **{name: torch.cat([getattr(batch, name), part], 1) for name, part in parts.items()})
    return batch.input_ids[0, -new:].tolist()


@pytest.mark.parametrize("side", ["left", "right"])
def test_rows_with_and_without_images_go_on_as_each_does_alone(model, side):
    together = generate(model, batch_of(ROWS, side), max_new_tokens=8)
    assert together.tolist() == [slowly(model, row, 8) for row in ROWS]


def test_given_positions_go_on(model):
    batch = batch_of([ROWS[0]])
    shifted = replace(batch, positions=torch.arange(batch.input_ids.shape[1])[None] + 9)
    assert torch.equal(generate(model, shifted, max_new_tokens=8), generate(model, batch, max_new_tokens=8))


def test_stops_row_by_row_and_all_together(model):
    free = generate(model, batch_of(ROWS), max_new_tokens=8).tolist()
    stop = free[0][2]
    expected = [row[: row.index(stop) + 1] if stop in row else row for row in free]
    longest = max(map(len, expected))
    stopped = generate(model, batch_of(ROWS), max_new_tokens=8, stop_ids=[stop], pad_id=39)
    assert stopped.tolist() == [row + [39] * (longest - len(row)) for row in expected]
    assert generate(model, batch_of(ROWS[:1]), max_new_tokens=8, stop_ids=[stop, free[0][0]]).tolist() == [free[0][:1]]


def test_the_stream_gives_the_same_tokens_as_they_come(model):
    steps = stream(model, batch_of(ROWS), max_new_tokens=8)
    first = next(steps)
    assert torch.equal(torch.stack([first, *steps], 1), generate(model, batch_of(ROWS), max_new_tokens=8))


def test_no_gradient_is_kept_and_generation_leaves_the_mode_alone(model):
    steps = stream(model, batch_of(ROWS), max_new_tokens=2)
    next(steps)
    assert torch.is_grad_enabled()
    assert not next(steps).requires_grad


def test_padding_moves_to_the_left_with_all_that_belongs_to_a_token():
    batch, there = batch_of(ROWS, "right"), batch_of(ROWS, "left")
    batch, there = (replace(one, looks=one.image_slot[..., None] >= torch.tensor([0, 3])) for one in (batch, there))
    moved = left_padded(batch)
    assert moved.looks.any()
    for name in ("valid", "prompt", "image_slot", "looks"):
        assert torch.equal(getattr(moved, name), getattr(there, name))
    assert torch.equal(moved.input_ids[moved.valid], there.input_ids[there.valid])
    assert torch.equal(left_padded(moved).input_ids, moved.input_ids)


@pytest.mark.parametrize(
    ("rows", "new", "told"),
    [
        ([[5] * 30], 3, "a prompt of 30 tokens and 3 new ones do not fit the context of 32"),
        ([[5], []], 3, "row 1 has no tokens"),
        ([[5]], 0, "max_new_tokens is 0"),
    ],
)
def test_what_cannot_be_written_is_told_at_once(model, rows, new, told):
    with pytest.raises(InputError, match=told):
        stream(model, batch_of(rows), max_new_tokens=new)


def test_packed_rows_are_refused(model):
    batch = batch_of(ROWS)
    with pytest.raises(InputError, match="packed"):
        generate(model, replace(batch, segment=batch.input_ids * 0), max_new_tokens=1)


def test_the_context_may_be_filled_to_the_last_place(model):
    assert generate(model, batch_of([[5] * 29]), max_new_tokens=3).shape == (1, 3)


def test_positions_on_axes_go_on_from_each_rows_last():
    torch.manual_seed(1)
    rope = {"sections": [2, 1, 1], "interleaved": True}
    language = {"name": "decoder", "vocabulary": WORDS, "width": 32, "depth": 2, "deviation": 0.3, "rope": rope}
    model = assemble(ModelConfig.parse({"language": language})).eval()
    ids = torch.randint(1, WORDS, (2, 6), generator=torch.Generator().manual_seed(0))
    places = torch.tensor([[0, 0, 0], [1, 1, 1], [1, 1, 2], [9, 2, 1], [1, 2, 2], [3, 3, 3]]).expand(2, -1, -1)
    valid = torch.tensor([[True] * 6, [True] * 5 + [False]])
    batch = Batch(input_ids=ids, valid=valid, prompt=valid, image_slot=ids * 0 - 1, positions=places)
    written = generate(model, batch, max_new_tokens=3)
    for row, length in ((0, 6), (1, 5)):
        so_far, at = ids[row : row + 1, :length], places[row : row + 1, :length]
        for step in range(3):
            there = torch.ones_like(so_far, dtype=torch.bool)
            with torch.no_grad():
                places_too = {"image_slot": so_far * 0 - 1, "positions": at}
                logits = model(replace(batch, input_ids=so_far, valid=there, prompt=there, **places_too))
            chosen = logits.logits[:, -1].argmax(-1)
            assert chosen.item() == written[row, step].item()
            so_far = torch.cat([so_far, chosen[:, None]], dim=1)
            at = torch.cat([at, at[:, -1:] + 1], dim=1)


@pytest.mark.parametrize("given", [3.0, "3", None, 0, -1])
def test_tokens_are_counted_in_whole_numbers(given):
    with pytest.raises(InputError, match="max_new_tokens is "):
        new_tokens(given)
    assert new_tokens(torch.tensor(3)) == 3


def test_what_is_said_ends_at_the_first_stop():
    assert spoken([5, 7, 3, 6, 7], {3, 7}) == [5] and spoken([5, 6], {3}) == [5, 6] and spoken([], ()) == []
