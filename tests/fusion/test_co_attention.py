from dataclasses import replace

import pytest
import torch

from foveal.core.errors import InputError
from foveal.core.types import Layout, VisualTokens
from foveal.fusion.co_attention import located
from foveal.models.config import ModelConfig
from foveal.models.masked import assemble
from tests.fusion.test_cross_modality import batch

TOLERANCE = {"atol": 1e-5, "rtol": 1e-5}
HEADS = {"words": "masked_language", "regions": {"name": "region_prediction", "labels": 5}, "both": "paired"}
MEETINGS = [[1, 0], [1, 1], [3, 1]]  # two before one layer, and one after the last


def model(named=HEADS, **more):
    torch.manual_seed(0)
    language = {"name": "encoder", "vocabulary": 9, "width": 8, "depth": 3, "heads": 2}
    fusion = {"name": "co_attention", "width_of_sight": 12, "layers": 2, "heads": 2, "meet": 4, "schedule": MEETINGS,
              **more}  # fmt: skip
    parts = {"assembly": "masked", "fusion": fusion, "features": 6, "connector": "linear", "language": language}
    made = assemble(ModelConfig.parse({**parts, "heads": named})).eval()
    with torch.no_grad():
        for weight in made.parameters():
            weight.normal_(std=0.4) if weight.ndim > 1 else weight.add_(0.1 * torch.randn_like(weight))
    return made


def told(made, given, **wanted):
    with torch.no_grad():
        return made(given, **wanted).heads


@pytest.mark.parametrize("more", [{}, {"gated": True}, {"whole": False, "places": 2}])
def test_a_row_alone_equals_itself_beside_others(more):
    made, both = model(**more), batch()
    all_rows = told(made, both)
    alone = batch()
    one = replace(
        alone,
        input_ids=alone.input_ids[2:, :3],
        valid=alone.valid[2:, :3],
        prompt=alone.prompt[2:, :3],
        image_slot=torch.tensor([[-1, 0, -1]]),
        visual=VisualTokens.on_layout(alone.visual.features[2:], Layout(counts=(1,), grids=(None,))),
        owner=torch.tensor([0]),
    )
    here = told(made, one)
    torch.testing.assert_close(all_rows["both"][2:], here["both"], **TOLERANCE)
    torch.testing.assert_close(all_rows["regions"][2:, :1], here["regions"], **TOLERANCE)
    torch.testing.assert_close(all_rows["words"][2, [0, 2]], here["words"][0, [0, 2]], **TOLERANCE)


def test_a_row_without_images_beside_others_equals_a_batch_without_any():
    made, both = model(), batch()
    words = replace(both, input_ids=both.input_ids[1:2], valid=both.valid[1:2], prompt=both.prompt[1:2],
                    image_slot=both.image_slot[1:2], visual=None, owner=torch.zeros(0, dtype=torch.long))  # fmt: skip
    torch.testing.assert_close(told(made, both)["both"][1:2], told(made, words)["both"], **TOLERANCE)
    torch.testing.assert_close(told(made, both)["words"][1, :3], told(made, words)["words"][0, :3], **TOLERANCE)
    assert told(made, words)["regions"].shape == (1, 0, 5)


def test_places_name_words_and_regions():
    made, both = model(), batch()
    every = told(made, both)
    some = told(made, both, at={"regions": both.image_slot >= 0, "words": both.valid & (both.image_slot < 0)})
    torch.testing.assert_close(some["regions"], torch.cat([every["regions"][0], every["regions"][2, :1]]))
    torch.testing.assert_close(some["words"][:3], every["words"][0, :3])


def test_the_streams_change_each_other_and_the_whole_is_their_mean():
    made, both = model(), batch()
    first = told(made, both)
    other = replace(both, input_ids=both.input_ids.clone())
    other.input_ids[0, 1] = 8
    assert (told(made, other)["regions"][0] - first["regions"][0]).abs().max() > 1e-3
    torch.testing.assert_close(told(made, other)["regions"][2], first["regions"][2], **TOLERANCE)
    moved = replace(both, visual=replace(both.visual, boxes=both.visual.boxes * 0.5))
    assert (told(made, moved)["words"][0] - first["words"][0]).abs().max() > 1e-3


def test_fixed_layers_learn_nothing_and_the_others_do():
    made = model(schedule=[[1, 1], [2, 2]], fixed=[1, 1])
    made(batch()).heads["both"].sum().backward()
    language, sight = made.language.layers, made.fusion.sight
    assert language[0].feed.up.weight.grad is None and sight[0].feed.up.weight.grad is None
    assert made.connector.map.weight.grad is None
    assert language[1].feed.up.weight.grad.abs().sum() > 0 and sight[1].feed.up.weight.grad.abs().sum() > 0


def test_a_location_is_a_box_and_its_share():
    boxes = torch.tensor([[0.0, 0.5, 0.5, 1.0]])
    torch.testing.assert_close(located(boxes), torch.tensor([[0.0, 0.5, 0.5, 1.0, 0.25]]))
    given = torch.tensor([[0.0, 0.5, 0.5, 1.0, 0.3]])
    assert located(given) is given


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"schedule": []}, "never meet"),
        ({"schedule": [[2, 0], [1, 1]]}, r"after \[2, 1\] layers of words"),
        ({"schedule": [[1, 3]]}, r"after \[3\] layers of sight; give a rising row from 0 to 2"),
        ({"fixed": [2, 0]}, "2 fixed layers of words"),
        ({"heads": 5}, "5 heads do not divide a width of 12"),
        ({"heads": 5, "meet": 12, "meet_heads": 3}, "5 heads do not divide a width of 12"),
    ],
)
def test_what_does_not_fit_is_named(more, said):
    with pytest.raises(InputError, match=said):
        model(**more)


def test_a_head_may_be_told_which_stream_it_reads():
    scores = {"name": "token_classification", "labels": 3}
    heads = {"sight": {**scores, "reads": "sight"}, "words": scores, "states": {"name": "states", "reads": "sight"}}
    made, both = model(named=heads), batch()
    said = told(made, both)
    assert said["states"].shape == (3, 2, 12) and said["words"].shape == (3, 5, 3)
    torch.testing.assert_close(said["sight"], made.heads["sight"](said["states"]))


def test_a_head_of_two_streams_wants_two():
    language = {"name": "encoder", "vocabulary": 9, "width": 8, "depth": 1, "heads": 2}
    parts = {"assembly": "masked", "fusion": "single_stream", "features": 6, "language": language}
    with pytest.raises(InputError, match="head 'both' reads a stream of sight and this fusion has none"):
        assemble(ModelConfig.parse({**parts, "heads": {"both": "paired"}}))
