"""Queries and words in one stack: who sees whom, by three rules on one set of weights."""

import pytest
import torch

from foveal.core.errors import InputError
from foveal.core.types import Layout, VisualTokens
from foveal.language.qformer import Qformer
from foveal.layers.qformer import Qformer as Stack

IDS = torch.tensor([[5, 6, 7, 8], [3, 4, 0, 0]])
VALID = IDS > 0


def model(**settings):
    torch.manual_seed(0)
    made = Qformer(**{"vocabulary": 9, "width": 8, "depth": 3, "heads": 2, "queries": 3, "memory_width": 6, **settings})
    for weight in made.parameters():
        torch.nn.init.normal_(weight, std=0.3) if weight.ndim > 1 else None
    return made.eval()


def seen(made, seed=0, counts=(4, 2)):
    features = torch.randn(sum(counts), 6, generator=torch.Generator().manual_seed(seed))
    return made.read(VisualTokens.on_layout(features, Layout(counts=counts, grids=(None,) * len(counts))))


def differs(one, other):
    """Which queries and words of the first row differ."""
    return [(~torch.isclose(a[0], b[0], atol=1e-6).all(-1)).tolist() for a, b in zip(one, other, strict=True)]


@pytest.mark.parametrize(
    ("sees", "by_image", "by_third_word"),
    [
        ("own", ([1, 1, 1], [0, 0, 0, 0]), ([0, 0, 0], [1, 1, 1, 1])),
        ("earlier", ([1, 1, 1], [1, 1, 1, 1]), ([0, 0, 0], [0, 0, 1, 1])),
        ("all", ([1, 1, 1], [1, 1, 1, 1]), ([1, 1, 1], [1, 1, 1, 1])),
    ],
)
def test_what_a_change_reaches_by_each_rule(sees, by_image, by_third_word):
    made, other = model(), IDS.clone()
    other[0, 2] = 2
    told = made(seen(made), IDS, VALID, sees=sees)
    assert differs(told, made(seen(made, seed=1), IDS, VALID, sees=sees)) == [list(map(bool, r)) for r in by_image]
    assert differs(told, made(seen(made), other, VALID, sees=sees)) == [list(map(bool, r)) for r in by_third_word]


@pytest.mark.parametrize("sees", ["own", "earlier", "all"])
def test_a_row_alone_equals_itself_beside_longer_texts_and_larger_images(sees):
    made = model(places=2, norm=True)
    both = made(seen(made), IDS, VALID, sees=sees)
    features = torch.randn(6, 6, generator=torch.Generator().manual_seed(0))[4:]
    one = made.read(VisualTokens.on_layout(features, Layout(counts=(2,), grids=(None,))))
    queries, words = made(one, IDS[1:, :2], VALID[1:, :2], sees=sees)
    torch.testing.assert_close(both[0][1:], queries, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(both[1][1:, :2], words, atol=1e-5, rtol=1e-5)


def test_it_is_the_stack_on_queries_and_words():
    made = model()
    memory, there = seen(made)
    whole = made.stack(made.queries.expand(2, -1, -1), memory=memory, memory_mask=there)
    torch.testing.assert_close(made((memory, there), IDS, VALID, sees="own")[0], whole, atol=1e-5, rtol=1e-5)
    words = made.stack(text=made.words(IDS[:1]))
    torch.testing.assert_close(made((memory, there), IDS, VALID, sees="own")[1][:1], words, atol=1e-5, rtol=1e-5)


def test_as_large_as_the_reference():
    with torch.device("meta"):
        made = Qformer(
            vocabulary=30523, width=768, depth=12, heads=12, inner=3072, queries=32, context=512, memory_width=1408
        )
        alone = Stack(text=False)
    count = {name: sum(p.numel() for p in part.parameters()) for name, part in made.named_children()}
    assert count["stack"] == 161_825_280 and made.queries.numel() == 24_576
    assert sum(p.numel() for p in alone.parameters()) == 105_137_664


def test_a_text_longer_than_the_context_is_refused():
    made = model(context=3)
    with pytest.raises(InputError, match="4 words for a Q-Former of 3 places"):
        made(seen(made), IDS, VALID, sees="own")
