from dataclasses import replace

import pytest
import torch

from foveal.core.errors import InputError
from foveal.models.looks import looks
from tests.fusion.test_co_attention import model
from tests.fusion.test_cross_modality import batch
from tests.fusion.test_cross_modality import model as another

TOLERANCE = {"atol": 1e-5, "rtol": 1e-5}


@pytest.mark.parametrize("more", [{}, {"gated": True}, {"whole": False}])
def test_every_token_spends_itself_on_what_is_there(more):
    made, both = model(**more), batch()
    maps, whole = looks(made, both), more.get("whole", True)
    words = (both.valid & (both.image_slot < 0)).float()
    sight = torch.tensor([[1.0, 1.0, 1.0], [0.0, 0.0, 0.0], [1.0, 1.0, 0.0]])[:, 0 if whole else 1 :]
    assert [len(kind) for kind in (maps.words, maps.sight, maps.to_sight, maps.to_words)] == [3, 2, 3, 3]
    pairs = ((maps.words, words, words), (maps.sight, sight, sight), (maps.to_sight, words, sight),
             (maps.to_words, sight, words))  # fmt: skip
    for shares, rows, columns in pairs:
        spent = rows * columns.any(1)[:, None]
        for share in shares:
            assert share.shape == (3, 2, rows.shape[1], columns.shape[1])
            torch.testing.assert_close(share.sum(-1), spent[:, None].expand(3, 2, -1), **TOLERANCE)
            assert (share * (1 - columns)[:, None, None]).abs().max() == 0


def test_a_meeting_finds_what_its_map_says():
    made, both = model(), batch()
    look, seen = made.fusion.to_sight[0].attention, {}
    look.register_forward_hook(lambda part, given, said: seen.update(value=given[1][1], said=said))
    share = looks(made, both).to_sight[0]
    mixed = (share @ seen["value"]).transpose(1, 2).flatten(2)
    torch.testing.assert_close(look.out(mixed)[0, :3], seen["said"][0, :3], **TOLERANCE)


def test_words_alone_look_at_words():
    both = batch()
    alone = replace(both, visual=None, image_slot=torch.full_like(both.image_slot, -1))
    maps = looks(model(), alone)
    assert maps.sight == maps.to_sight == maps.to_words == ()
    torch.testing.assert_close(maps.words[0].sum(-1), alone.valid.float()[:, None].expand(3, 2, 5), **TOLERANCE)


def test_another_fusion_is_refused():
    with pytest.raises(InputError, match="ask a model of 'co_attention'"):
        looks(another(), batch())
