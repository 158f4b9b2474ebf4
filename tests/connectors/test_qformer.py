from dataclasses import replace

import pytest
import torch

from foveal.connectors.qformer import Qformer
from foveal.core.errors import InputError
from foveal.core.types import Batch, Layout, VisualTokens

SMALL = {"width_in": 6, "width_out": 10, "queries": 3, "width": 16, "depth": 3, "heads": 2}


def small(*, vocabulary: int = 0, **settings) -> Qformer:
    torch.manual_seed(0)
    return Qformer(**{**SMALL, "vocabulary": vocabulary, **settings}).eval()


def tokens(*counts: int) -> VisualTokens:
    torch.manual_seed(1)
    layout = Layout(counts=counts, grids=(None,) * len(counts))
    return VisualTokens.on_layout(torch.randn(layout.total, 6), layout)


def asking(ids, prompt, slots, **more) -> Batch:
    ids = torch.tensor(ids)
    valid = torch.ones_like(ids, dtype=torch.bool)
    return Batch(
        input_ids=ids, valid=valid, prompt=torch.tensor(prompt).bool(), image_slot=torch.tensor(slots),
        owner=torch.tensor(more.pop("owner", [0])), **more,
    )  # fmt: skip


def test_so_many_tokens_an_image_as_there_are_queries_on_no_grid():
    connector, visual = small(), tokens(5, 2, 7)
    found = connector(visual)
    assert found.layout == connector.plan(visual.layout) == Layout(counts=(3, 3, 3), grids=(None, None, None))
    assert found.features.shape == (9, 10)
    assert found.image.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_of_a_ragged_batch_each_image_is_seen_as_alone():
    connector, visual = small(), tokens(5, 2, 7)
    found = connector(visual).features.split(3)
    for part, features in zip(found, visual.features.split((5, 2, 7)), strict=True):
        layout = Layout(counts=(len(features),), grids=(None,))
        torch.testing.assert_close(
            connector(VisualTokens.on_layout(features, layout)).features, part, atol=1e-6, rtol=1e-5
        )


def test_no_image_gives_no_token():
    assert small()(tokens()).features.shape == (0, 10)


def test_fresh_queries_are_small():
    wide = Qformer(width_in=4, width_out=4, queries=64, width=64, heads=2, depth=1)
    assert wide.queries.std().item() == pytest.approx(0.02, rel=0.1)


def test_without_a_vocabulary_no_question_is_heard():
    assert small().query(asking([[4, 5]], [[1, 1]], [[-1, -1]])) is None


def test_a_question_is_the_prompt_without_its_images_and_never_the_answer():
    connector, visual = small(vocabulary=20), tokens(5)
    slots = [[-1, 0, 1, 2, -1, -1, -1]]
    batch = asking([[4, 9, 9, 9, 5, 6, 7]], [[1, 1, 1, 1, 1, 0, 0]], slots)
    query = connector.query(batch)
    assert query is not None
    torch.testing.assert_close(query.features, connector.words(torch.tensor([[4, 5]])))
    answered = asking([[4, 9, 9, 9, 5, 8, 3]], [[1, 1, 1, 1, 1, 0, 0]], slots)
    assert torch.equal(connector(visual, query).features, connector(visual, connector.query(answered)).features)
    other = asking([[4, 9, 9, 9, 6, 6, 7]], [[1, 1, 1, 1, 1, 0, 0]], slots)
    assert not torch.allclose(connector(visual, query).features, connector(visual, connector.query(other)).features)


def test_words_of_another_vocabulary_go_first_and_padding_is_not_heard():
    connector, visual = small(vocabulary=20), tokens(5, 4)
    batch = asking(
        [[9, 9], [9, 9]], [[1, 1], [1, 1]], [[-1, -1], [-1, -1]], owner=[0, 1],
        question=torch.tensor([[3, 1, -1], [2, 7, 5]]),
    )  # fmt: skip
    found = connector(visual, connector.query(batch)).features[:3]
    alone = asking([[9, 9]], [[1, 1]], [[-1, -1]], question=torch.tensor([[3, 1]]))
    first = VisualTokens.on_layout(visual.features[:5], Layout(counts=(5,), grids=(None,)))
    torch.testing.assert_close(connector(first, connector.query(alone)).features, found, atol=1e-6, rtol=1e-5)


def test_conversations_packed_into_a_row_ask_their_own_images_alone():
    connector, visual = small(vocabulary=20), tokens(5, 4)
    packed = asking(
        [[0, 0, 0, 4, 0, 0, 0, 5, 6]], [[1] * 9], [[0, 1, 2, -1, 3, 4, 5, -1, -1]], owner=[0, 0],
        segment=torch.tensor([[0] * 4 + [1] * 5]),
    )  # fmt: skip
    query = connector.query(packed)
    assert query is not None and query.valid.tolist() == [[True, False], [True, True]]
    apart = asking([[0, 0, 0, 5, 6]], [[1] * 5], [[0, 1, 2, -1, -1]])
    second = VisualTokens.on_layout(visual.features[5:], Layout(counts=(4,), grids=(None,)))
    told = connector(second, connector.query(apart)).features
    torch.testing.assert_close(connector(visual, query).features[3:], told, atol=1e-6, rtol=1e-5)


def test_what_branches_ask_apart_is_not_heard():
    connector = small(vocabulary=20)
    batch = asking([[0, 0, 0, 4, 5, 6]], [[1] * 6], [[0, 1, 2, -1, -1, -1]], branch=torch.tensor([[0, 0, 0, 0, 1, 2]]))
    query = connector.query(batch)
    assert query is not None
    torch.testing.assert_close(query.features, connector.words(torch.tensor([[4]])))


def test_the_queries_alone_say_what_they_say_beside_the_words():
    connector, visual = small(vocabulary=20), tokens(5)
    query = connector.query(asking([[4, 5]], [[1, 1]], [[-1, -1]]))
    states = connector.look(visual, query)
    assert states.shape == (1, 5, 16)
    torch.testing.assert_close(connector.look(visual, query, alone=True), states[:, :3], atol=1e-6, rtol=1e-5)


def test_the_size_of_blip_2():
    with torch.device("meta"):
        connector = Qformer(
            width_in=1408, width_out=2560, queries=32, width=768, depth=12, heads=12, inner=3072
        )  # fmt: skip
    assert sum(weight.numel() for weight in connector.stack.parameters()) == 105_137_664
    assert connector.queries.numel() == 24_576


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(InputError, match="3 heads do not divide a width of 16"):
        small(heads=3)


def test_it_may_norm_what_it_sees_and_be_told_where_that_lies():
    visual = tokens(4)
    placed = small(places=2, norm=True)
    moved = replace(visual, boxes=visual.boxes / 2)
    assert not torch.allclose(placed(visual).features, placed(moved).features)
    torch.testing.assert_close(placed(visual.with_features(3 * visual.features)).features, placed(visual).features)
    assert set(small().state_dict()) == {name for name in placed.state_dict() if not name.startswith("shown.")}
