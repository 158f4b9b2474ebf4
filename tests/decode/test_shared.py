from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from foveal.core.errors import InputError
from foveal.core.types import Batch, Layout, VisualTokens
from foveal.decode.generate import generate
from foveal.decode.shared import generate_shared, heads, shared_length
from foveal.models.causal import assemble
from foveal.models.config import ModelConfig

TOKENS, WIDTH = 40, 12


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    vision = {
        "name": "vit",
        "width": WIDTH,
        "depth": 1,
        "heads": 2,
        "inner": 16,
        "patch": 4,
        "image_size": 8,
        "layers": [-1],
    }
    language = {"name": "decoder", "vocabulary": TOKENS, "width": 32, "depth": 2, "context": 64, "deviation": 0.3}
    return assemble(ModelConfig.parse({"vision": vision, "connector": "linear", "language": language})).eval()


def rows_about(images, texts, *, before=2, after=1, tokens=4):
    """Rows of: a fixed beginning, the image's slots, a fixed word, the row's own text; padded on the right."""
    torch.manual_seed(1)
    layout = Layout(counts=(tokens,) * (max(images) + 1), grids=((2, 2),) * (max(images) + 1))
    ids, slots = [], []
    for image, text in zip(images, texts, strict=True):
        ids.append([1] * before + [0] * tokens + [2] * after + text)
        slots.append([-1] * before + [image * tokens + i for i in range(tokens)] + [-1] * (after + len(text)))
    width = max(map(len, ids))
    valid = torch.tensor([[True] * len(row) + [False] * (width - len(row)) for row in ids])
    return Batch(
        input_ids=torch.tensor([row + [0] * (width - len(row)) for row in ids]),
        valid=valid,
        prompt=valid,
        image_slot=torch.tensor([row + [-1] * (width - len(row)) for row in slots]),
        visual=VisualTokens.on_layout(torch.randn(layout.total, WIDTH), layout),
        owner=torch.tensor([images.index(image) for image in range(max(images) + 1)]),
    )


IMAGES = [0, 0, 0, 1, 1]
TEXTS = [[5], [6, 7, 8], [6, 7], [9, 9], [5]]


def test_what_rows_share_ends_before_their_own_words():
    batch = rows_about(IMAGES, TEXTS)
    assert shared_length(batch, torch.tensor(IMAGES)) == 7
    assert shared_length(batch, torch.zeros(5, dtype=torch.long)) == 2  # rows about other images share less


def test_a_token_is_left_to_every_row():
    batch = rows_about([0, 0], [[5], [5]])
    assert shared_length(batch, torch.tensor([0, 0])) == 7


def test_the_first_row_of_each_group():
    assert heads(torch.tensor([0, 0, 1, 2, 2])).tolist() == [0, 2, 3]


def test_the_same_tokens_as_one_row_after_another(model):
    batch = rows_about(IMAGES, TEXTS)
    whole = generate(model, batch, max_new_tokens=6)
    shared = generate_shared(model, batch, group=torch.tensor(IMAGES), max_new_tokens=6)
    assert torch.equal(shared, whole)


@settings(deadline=None, max_examples=20)
@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.lists(st.integers(3, 39), min_size=1, max_size=4)), min_size=1, max_size=6
    ),
    st.integers(1, 4),
)
def test_any_mix_of_rows_gives_what_each_gives_alone(model, rows, new):
    rows = sorted(rows, key=lambda row: row[0])
    names = {image: i for i, image in enumerate(dict.fromkeys(image for image, _ in rows))}
    images, texts = [names[image] for image, _ in rows], [text for _, text in rows]
    batch = rows_about(images, texts)
    shared = generate_shared(model, batch, group=torch.tensor(images), max_new_tokens=new, stop_ids=[3], pad_id=0)
    for i, row in enumerate(shared):
        length = int(batch.valid[i].sum())
        alone = replace(
            batch,
            **{k: getattr(batch, k)[i : i + 1, :length] for k in ("input_ids", "valid", "prompt", "image_slot")},
        )
        expected = generate(model, alone, max_new_tokens=new, stop_ids=[3])[0]
        assert row[: len(expected)].tolist() == expected.tolist()
        assert not row[len(expected) :].any()


def test_an_image_after_the_words_is_seen_too(model):
    """Nothing of the image lies in the beginning that rows share: they still point at the same visual tokens."""
    batch = rows_about([0, 0], [[5], [6]])
    turned = {name: getattr(batch, name).flip(1) for name in ("input_ids", "image_slot")}
    batch = replace(batch, **turned)
    shared = generate_shared(model, batch, group=torch.tensor([0, 0]), max_new_tokens=3)
    assert torch.equal(shared, generate(model, batch, max_new_tokens=3))


@pytest.mark.parametrize("image_last", [False, True])
def test_tokens_of_an_image_that_see_each_other_still_do(model, image_last):
    batch = rows_about(IMAGES, TEXTS) if not image_last else rows_about([0, 0], [[5], [6]], after=0)
    if image_last:
        batch = replace(batch, **{name: getattr(batch, name).flip(1) for name in ("input_ids", "image_slot")})
    seen = batch.image_slot >= 0
    place = torch.arange(seen.shape[1]).expand(seen.shape)
    mutual = replace(batch, order=torch.where(seen, seen.int().argmax(1, keepdim=True), place))
    group = torch.tensor([0, 0] if image_last else IMAGES)
    shared = generate_shared(model, mutual, group=group, max_new_tokens=4)
    assert torch.equal(shared, generate(model, mutual, max_new_tokens=4))
    assert not torch.equal(shared, generate(model, batch, max_new_tokens=4))


def test_the_whole_prompt_counts_against_the_context(model):
    with pytest.raises(InputError, match="8 tokens and 60 new ones do not fit the context of 64"):
        generate_shared(model, rows_about([0, 0], [[5], [6]]), group=torch.tensor([0, 0]), max_new_tokens=60)
