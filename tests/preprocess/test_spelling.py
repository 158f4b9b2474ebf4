"""Words around tiles, and images of which each tile stands in a place of its own."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.models.idefics3.processing_idefics3 import Idefics3Processor
from transformers.models.ovis2.processing_ovis2 import Ovis2Processor

from foveal.core.errors import InputError
from foveal.core.types import Cut, Layout
from foveal.layers.mosaic import Joined, Mosaic
from foveal.preprocess.processor import Processor, ProcessorConfig
from foveal.preprocess.spelling import BETWEEN, BY_COMMA, BY_MARK, BY_NAME, Spelling
from foveal.preprocess.tiling import Tiling
from foveal.preprocess.transform import ImageTransform
from tests.preprocess.conftest import byte_level

LOOK = ImageTransform(size=28, tiling=Tiling(kind="grid", tile=28, most=3))


def plan(cuts, mosaic=None):
    return Joined(width=1, settings=mosaic).plan(Layout.of_grids([(2, 2)] * sum(cut.tiles for cut in cuts)), cuts)


def processor(spelling, context=2048, template="plain"):
    tokenizer = byte_level()
    config = ProcessorConfig(image=LOOK, spelling=spelling, context=context, template=template)
    return Processor(tokenizer=tokenizer, config=config)


@pytest.mark.parametrize(("rows", "columns"), [(2, 3), (1, 1), (0, 0)])
def test_tiles_are_named_as_idefics3s_are(rows, columns):
    """Its processor is asked without being made: that would need a tokenizer."""
    theirs = object.__new__(Idefics3Processor)
    theirs.fake_image_token, theirs.image_token = "<fake_token_around_image>", "<image>"
    theirs.global_image_tag, theirs.image_seq_len = "<global-img>", 1
    wanted = theirs.replace_image_token({"rows": [[rows]], "cols": [[columns]]}, 0)
    cut = Cut(tile=(16, 16), size=(9, 9), grid=(rows, columns), view="last")
    assert BY_NAME(cut, "<image>") == wanted


def test_slices_are_parted_by_commas_and_lines():
    cut = Cut(tile=(16, 16), size=(9, 9), grid=(2, 3))
    assert BY_COMMA(cut, "*") == "*\n*,*,*\n*,*,*\n"
    assert BY_COMMA(Cut(tile=(16, 16), size=(9, 9)), "*") == "*"


@pytest.mark.parametrize(("rows", "columns"), [(2, 3), (1, 2), (3, 1), (0, 0)])
def test_tiles_are_marked_as_ovis_2s_are(rows, columns):
    theirs = object.__new__(Ovis2Processor)
    theirs.image_seq_length = 1
    grid = torch.tensor([max(rows, 1), max(columns, 1)])
    cut = Cut(tile=(16, 16), size=(9, 9), grid=(rows, columns))
    assert BY_MARK(cut, "<IMG_ATOM>") == theirs.replace_image_token({"grids": [grid]}, 0)


def test_images_beside_each_other_share_what_ends_and_begins_them():
    one = BETWEEN(Cut(tile=(16, 16), size=(9, 9)), "<image>")
    fake = "<fake_token_around_image>"
    assert BETWEEN.neat(one + one + "so") == f"{fake}<image>{fake}<image>{fake} so"
    assert BETWEEN.neat(one + " so") == f"{fake}<image>{fake} so"
    assert Spelling(begin="<a>", end="<b>").neat("<b><a>x") == "<b><a>x"


def test_each_tile_stands_in_its_place_in_order():
    image = Image.new("RGB", (60, 28))  # 1 x 3 tiles and the view before them
    asked = processor(Spelling(tile="<{row},{column}>", row=";", begin="[", end="]"))
    batch = asked.prompt([([image, image], "a <image> b <image> c")], plan=plan)
    slots = batch.image_slot[0]
    assert slots[slots >= 0].tolist() == list(range(32))
    text, runs = "", []
    for slot, token in zip(slots.tolist(), batch.input_ids[0].tolist(), strict=True):
        if slot < 0:
            text += asked.tokenizer.decode([token])
        elif slot % 4 == 0:
            text += f"{{{slot}}}"
            runs.append(slot)
    assert runs == list(range(0, 32, 4))
    spelled = "[{0}<1,1>{4}<1,2>{8}<1,3>{12};]"
    assert f"a {spelled} b [{{16}}<1,1>{{20}}<1,2>{{24}}<1,3>{{28}};] c" in text
    assert batch.visual.cuts == tuple(LOOK.planned(image) for _ in range(2))


def test_a_trunk_with_tiles_is_shared():
    from foveal.core.example import Example

    image = Image.new("RGB", (60, 28))

    def example(question):
        asked = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}
        return Example(id="x", images=(image,), messages=(asked, {"role": "assistant", "content": "yes"}))

    asked = processor(Spelling(tile="<{row}>"))
    both = asked.training([[example("is it a cat?"), example("is it a dog?")]], plan=plan)
    alone = asked.training([example("is it a cat?")], plan=plan)
    first = alone.image_slot[0]
    assert first[first >= 0].tolist() == both.image_slot[0][both.image_slot[0] >= 0].tolist() == list(range(16))
    length = int((first >= 0).nonzero()[-1]) + 1
    assert both.image_slot[0][:length].tolist() == first[:length].tolist()


@pytest.mark.parametrize("budget", [1, 3, 4, 7, 16])
def test_what_a_budget_leaves_of_tiles_is_shared_out_among_their_places(budget):
    image = Image.new("RGB", (60, 28))  # 1 x 3 tiles and the view before them
    asked = processor(Spelling(tile="<{row},{column}>", row=";", begin="[", end="]"))

    def left(cuts):
        return Layout(counts=(budget,) * len(cuts), grids=(None,) * len(cuts), cut=((2, 6),) * len(cuts))

    batch = asked.prompt([([image, image], "a <image> b <image> c")], plan=left)
    slots, words = batch.image_slot[0], batch.input_ids[0]
    assert slots[slots >= 0].tolist() == list(range(2 * budget))
    assert "".join(asked.tokenizer.decode(words[slots < 0]).split()).count("[<1,1><1,2><1,3>;]") == 2
    runs = [len(run.split()) for run in " ".join("*" if slot >= 0 else "|" for slot in slots.tolist()).split("|")]
    own = [budget // 4 + (place < budget % 4) for place in range(4)]
    assert [run for run in runs if run] == [run for run in 2 * own if run]


def test_what_stands_between_tiles_is_in_words_or_in_tokens_and_not_both():
    asked = processor(Spelling())
    with pytest.raises(
        InputError, match=r"parts the 17 tokens of image 1 into 4 places; leave out processor\.spelling"
    ):
        asked.prompt([(Image.new("RGB", (60, 28)), "what?")], plan=lambda cuts: plan(cuts, Mosaic(newline=True)))


def test_more_tiles_than_the_context_holds_are_refused_before_one_is_made():
    asked = processor(None, context=36)
    unread = np.zeros((28 * 3, 28 * 3, 3), np.float64) - 1  # values that no picture has
    told = r"row 1 has \d+ tokens \(40 of them of images\), but the context holds 36; "
    with pytest.raises(InputError, match=told + r"processor\.image\.tiling\.most=2 makes it 3\d tokens"):
        asked.prompt([(_Sized(unread.shape[:2]), "what?")], plan=plan)
    with pytest.raises(InputError, match="ask in fewer words, with fewer pictures, or for a shorter answer"):
        processor(None, context=5).prompt([(_Sized((84, 84)), "what?")], plan=plan)


class _Sized(Image.Image):
    """A picture of a size whose pixels cannot be read."""

    def __init__(self, size):
        super().__init__()
        self._size, self._mode = size[::-1], "RGB"

    def load(self):
        raise AssertionError("a pixel was read")
