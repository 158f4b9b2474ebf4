"""One vocabulary: images become words of the text, as labels too where they are to be written."""

import pytest
import torch

from foveal.core.errors import InputError
from foveal.core.types import IGNORE, Batch, Layout, Pixels, VisualTokens
from foveal.fusion.vocabulary import Vocabulary
from foveal.models import causal
from foveal.models.config import ModelConfig

VQ = {"name": "vq", "codes": 6, "width": 8, "latent": 4, "base": 32, "multiples": [1, 2], "fold": 2, "blocks": 1}
PARTS = {
    "vision": VQ,
    "connector": None,
    "fusion": {"name": "vocabulary", "codes": 6, "first": 10},
    "language": {"name": "decoder", "vocabulary": 16, "width": 16, "depth": 1, "heads": 2},
}


def model_of(**changed):
    torch.manual_seed(0)
    return causal.assemble(ModelConfig.parse({**PARTS, **changed})).eval()


def batch_of(pixels):
    """Two words, an image of two cells, a word; the second image cell and the last word are to be written."""
    ids = torch.tensor([[1, 2, 0, 0, 3]])
    everywhere = torch.ones_like(ids, dtype=torch.bool)
    labels = torch.tensor([[IGNORE, IGNORE, IGNORE, 0, 3]])
    slots = torch.tensor([[-1, -1, 0, 1, -1]])
    return Batch(
        input_ids=ids, valid=everywhere, prompt=everywhere, image_slot=slots, visual=pixels, labels=labels, full=True
    )


def test_an_image_reads_as_the_words_of_its_codes():
    model = model_of()
    pixels = Pixels.whole(torch.rand(1, 3, 4, 8))
    words = model.vision.encode(pixels.values).flatten() + 10
    seen = model(batch_of(pixels), keep="labelled")
    text = batch_of(None)
    text.input_ids[0, 2:4] = words
    assert torch.equal(seen.logits, model(text, keep="labelled").logits)
    assert seen.labels.tolist() == [int(words[1]), 3]
    stored = VisualTokens.on_layout(seen.visual.features.half().float(), seen.visual.layout)  # features without codes
    assert torch.equal(model(batch_of(stored), keep="labelled").labels, seen.labels)


def test_words_may_stand_anywhere():
    fusion = Vocabulary(width=4, depth=1, codes=3, words=(7, 5, 9))
    batch = batch_of(None)
    tokens = VisualTokens.on_layout(torch.zeros(2, 4), Layout.of_grids([(1, 2)]))
    with pytest.raises(InputError, match="without codes"):
        fusion.at_words(batch, tokens)
    worded = fusion.at_words(batch, VisualTokens(**{**vars(tokens), "codes": torch.tensor([2, 0])}))
    assert worded.input_ids.tolist() == [[1, 2, 9, 7, 3]] and worded.labels.tolist() == [[-100, -100, -100, 7, 3]]


def test_settings_come_back():
    for parts in (PARTS, {key: part for key, part in PARTS.items() if key not in ("vision", "connector")}):
        assert ModelConfig.parse(ModelConfig.parse(parts).dump()) == ModelConfig.parse(parts)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"connector": "linear"}, "the connector is linear"),
        ({"fusion": "prefix"}, "'prefix' reads no codes, vision 'vq' has 6"),
        ({"fusion": {"name": "vocabulary", "codes": 5}}, "reads 5 codes, vision 'vq' has 6"),
        ({"fusion": {"name": "vocabulary", "codes": 6, "first": 11}}, "from 11 to 16 but the language model has 16"),
        ({"fusion": {"name": "vocabulary", "codes": 6, "words": [1, 2]}}, "2 different words for 6 codes"),
        ({"fusion": {"name": "vocabulary", "codes": 2, "words": [1, 1]}}, "1 different words for 2 codes"),
    ],
)
def test_parts_that_do_not_fit_are_refused(changed, told):
    with pytest.raises(InputError, match=told):
        model_of(**changed)
