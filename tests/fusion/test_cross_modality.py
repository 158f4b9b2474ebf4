from dataclasses import replace

import pytest
import torch

from foveal.core.errors import InputError
from foveal.core.types import Batch, Layout, VisualTokens
from foveal.models.config import ModelConfig
from foveal.models.masked import assemble

TOLERANCE = {"atol": 1e-5, "rtol": 1e-5}


def model(**more):
    torch.manual_seed(0)
    language = {"name": "encoder", "vocabulary": 9, "width": 8, "depth": 3, "heads": 2}
    fusion = {"name": "cross_modality", "cross": 2, "heads": 2, **more}
    parts = {"assembly": "masked", "fusion": fusion, "features": 6, "connector": "boxed", "language": language}
    made = assemble(ModelConfig.parse({**parts, "heads": {"states": "states"}})).eval()
    with torch.no_grad():
        for weight in made.parameters():
            weight.normal_(std=0.4)
    return made


def batch():
    """Three words and two regions; a row without regions; one region and two words between padding."""
    ids = torch.tensor([[1, 2, 3, 0, 0], [4, 5, 6, 0, 0], [7, 0, 8, 0, 0]])
    slots = torch.tensor([[-1, -1, -1, 0, 1], [-1] * 5, [-1, 2, -1, -1, -1]])
    valid = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 1, 1, 0, 0]]).bool()
    features = torch.randn(3, 6, generator=torch.Generator().manual_seed(1))
    visual = VisualTokens.on_layout(features, Layout(counts=(2, 1), grids=(None, None)))
    return Batch(input_ids=ids, valid=valid, prompt=valid, image_slot=slots, visual=visual, owner=torch.tensor([0, 2]))


def states(made, given):
    with torch.no_grad():
        return made(given).logits


def test_a_row_alone_equals_itself_beside_others():
    made, both = model(), batch()
    told = states(made, both)
    for row, count in ((0, 5), (1, 3), (2, 3)):
        slots = both.image_slot[row : row + 1, :count]
        begin = int(slots.max()) - int((slots >= 0).sum()) + 1 if (slots >= 0).any() else 0
        some = both.visual.features[begin : begin + int((slots >= 0).sum())]
        visual = VisualTokens.on_layout(some, Layout(counts=(len(some),), grids=(None,))) if len(some) else None
        alone = Batch(
            input_ids=both.input_ids[row : row + 1, :count],
            valid=torch.ones(1, count, dtype=torch.bool),
            prompt=torch.ones(1, count, dtype=torch.bool),
            image_slot=torch.where(slots >= 0, slots - begin, -1),
            visual=visual,
            owner=torch.zeros(1 if visual else 0, dtype=torch.long),
        )
        torch.testing.assert_close(told[row, :count], states(made, alone)[0], **TOLERANCE)


def test_words_and_sight_change_each_other_and_other_rows_stay():
    made, given = model(), batch()
    before = states(made, given)
    other = given.visual.features.clone()
    other[1] += 1
    moved = (states(made, replace(given, visual=given.visual.with_features(other))) - before).abs().amax(-1) > 1e-5
    assert moved[0].all() and not moved[1:].any()
    ids = given.input_ids.clone()
    ids[2, 0] = 1
    moved = (states(made, replace(given, input_ids=ids)) - before).abs().amax(-1) > 1e-5
    assert moved[2, :3].all() and not moved[:2].any()


def test_the_language_layers_read_words_alone():
    made, seen = model(), []
    for layer in made.language.layers:
        layer.register_forward_pre_hook(lambda layer, given: seen.append(given[0].hidden.shape[1]))
    given = batch()
    some = {name: getattr(given, name)[:1] for name in ("input_ids", "valid", "prompt", "image_slot")}
    told = states(made, replace(given, **some, owner=torch.tensor([0, 0])))
    assert seen == [3, 3, 3] and told.shape[1] == 5


def test_both_directions_have_one_set_of_weights():
    meeting = model().fusion.meetings[0]
    assert sum("query.weight" in name for name, _ in meeting.named_parameters()) == 1


def test_more_meetings_than_layers_are_refused():
    with pytest.raises(InputError, match="4 meetings of words and sight in 3 language layers"):
        model(cross=4)


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(InputError, match="3 heads do not divide a width of 8"):
        model(heads=3)
