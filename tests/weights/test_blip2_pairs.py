"""BLIP-2's first stage against its reference: freshly made random tiny models, called as theirs are."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from foveal.core.errors import InputError
from foveal.core.types import Batch, Pixels
from foveal.front import load
from tests.weights.test_blip2 import SMALL, TOLERANCE, change_config, random_weights

QUERIES, MARK = 4, 60


def reference(*, seed=0, frequency=2, depth=3, marked=False, size=20):
    """A random tiny Blip2ForImageTextRetrieval."""
    import transformers as hf

    torch.manual_seed(seed)
    config = hf.Blip2Config(
        vision_config={**SMALL, "hidden_size": 24, "image_size": 24, "patch_size": 8},
        qformer_config={
            **{**SMALL, "num_hidden_layers": depth, "cross_attention_frequency": frequency, "vocab_size": 61},
            **{"max_position_embeddings": 16, "use_qformer_text_input": True},
        },
        text_config=hf.OPTConfig(vocab_size=61, hidden_size=8, ffn_dim=8, num_hidden_layers=1, num_attention_heads=1),
        num_query_tokens=QUERIES,
        image_text_hidden_size=size,
        image_token_index=MARK if marked else None,
    )
    return random_weights(hf.Blip2ForImageTextRetrieval(config))


def inputs(images, texts, *, marked=False, left=False, seed=0):
    """Pictures, and texts of different lengths, as a processor returns them."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, 59, (texts, 6), generator=generator)
    lengths = torch.arange(texts) % 3
    mask = (torch.arange(6) < 6 - lengths[:, None]).long()
    mask = mask.flip(1) if left else mask
    if marked:
        ids = torch.cat([torch.full((texts, QUERIES), MARK), ids], dim=1)
        mask = torch.cat([torch.ones(texts, QUERIES, dtype=torch.long), mask], dim=1)
    return {
        "pixel_values": torch.randn(images, 3, 24, 24, generator=generator),
        "input_ids": ids,
        "attention_mask": mask,
    }


CASES = {
    "as it is": {},
    "every layer looks": {"frequency": 1},
    "the first alone looks": {"frequency": 4, "depth": 4},
    "with image tokens": {"marked": True, "size": 7},
}


@pytest.fixture(params=CASES)
def pair(request, tmp_path):
    theirs = reference(**CASES[request.param], seed=len(request.param))
    theirs.save_pretrained(tmp_path)
    return theirs, load(tmp_path)


def told_alike(output, expected):
    for field in ("logits_per_image", "logits_per_text", "text_embeds", "image_embeds"):
        torch.testing.assert_close(getattr(output, field), getattr(expected, field), **TOLERANCE)
    for part in ("text_model_output", "vision_model_output"):
        for field in ("last_hidden_state", "pooler_output"):
            mine, other = getattr(getattr(output, part), field), getattr(getattr(expected, part), field)
            torch.testing.assert_close(mine, other, **TOLERANCE)


@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize(("images", "texts"), [(3, 3), (1, 4), (4, 2)])
def test_vectors_equal_transformers(pair, images, texts, left):
    theirs, ours = pair
    given = inputs(images, texts, marked=theirs.config.image_token_index is not None, left=left)
    with torch.no_grad():
        told_alike(ours(**given), theirs(**given))


@pytest.mark.parametrize("left", [False, True])
def test_matches_equal_transformers(pair, left):
    theirs, ours = pair
    given = inputs(4, 4, marked=theirs.config.image_token_index is not None, left=left)
    with torch.no_grad():
        told_alike(ours(**given, use_image_text_matching_head=True), theirs(**given, use_image_text_matching_head=True))


def batch_of(given):
    """The same pairs as our own models take them: one place for the image before each text."""
    rows = len(given["input_ids"])
    ids = torch.cat([torch.ones(rows, 1, dtype=torch.long), given["input_ids"]], dim=1)
    valid = torch.cat([torch.ones(rows, 1, dtype=torch.bool), given["attention_mask"].bool()], dim=1)
    slots = torch.full_like(ids, -1)
    slots[:, 0] = 10 * torch.arange(rows)  # nine cells and a class token
    visual, owner = Pixels.whole(given["pixel_values"]), torch.arange(rows)
    return Batch(input_ids=ids, valid=valid, prompt=valid, image_slot=slots, visual=visual, owner=owner)


def test_what_our_own_model_says_is_the_same(tmp_path):
    """Its products are their cosines, for the temperature is one, and its first class says that a text belongs."""
    theirs = reference(seed=3)
    theirs.save_pretrained(tmp_path)
    given = inputs(3, 3)
    with torch.no_grad():
        told = load(tmp_path).model(batch_of(given)).heads
        vectors, matched = theirs(**given), theirs(**given, use_image_text_matching_head=True)
    fits = (told["pair"][:, None, :-1] @ told["pair"][None, :, -1:].mT)[..., 0].amax(-1)
    torch.testing.assert_close(fits, vectors.logits_per_image, **TOLERANCE)
    torch.testing.assert_close(told["matching"].flip(-1), matched.logits_per_image, **TOLERANCE)


def test_written_back_it_is_the_same_checkpoint(pair, tmp_path):
    import transformers as hf

    theirs, ours = pair
    ours.save_pretrained(tmp_path / "back")
    written, given = (load_file(folder / "model.safetensors") for folder in (tmp_path / "back", tmp_path))
    assert written.keys() == given.keys()
    assert all(torch.equal(written[name], given[name]) for name in given)
    again = hf.Blip2ForImageTextRetrieval.from_pretrained(tmp_path / "back")
    assert all(torch.equal(again.state_dict()[name], weight) for name, weight in theirs.state_dict().items())
    given = inputs(2, 2, marked=theirs.config.image_token_index is not None)
    with torch.no_grad():
        again = load(ours.save(tmp_path / "run"))
        assert torch.equal(again(**given).logits_per_image, ours(**given).logits_per_image)


def test_a_temperature_that_was_learned_has_no_place_there(tmp_path):
    reference().save_pretrained(tmp_path)
    ours = load(tmp_path)
    torch.nn.init.constant_(ours.model.heads["pair"].scale, 1.5)
    with pytest.raises(InputError, match=r"heads\.pair\.scale is not zero"):
        ours.save_pretrained(tmp_path / "back")


def test_loading_is_strict(tmp_path):
    reference().save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    weight = state.pop("itm_head.weight")
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match=r"missing: itm_head\.weight"):
        load(tmp_path)
    save_file({**state, "itm_head.weight": weight, "more": weight.clone()}, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match="unexpected: more"):
        load(tmp_path)
    change_config(tmp_path, num_query_tokens=7)
    with pytest.raises(InputError, match="says 7 num_query_tokens but the weights hold 4"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"pixel_values": torch.zeros(2, 3, 16, 24)}, "16 x 24 pixels .* for a tower of 24 x 24; resize it"),
        ({"use_image_text_matching_head": True, "pixel_values": torch.zeros(3, 3, 24, 24)}, "3 images but 2 texts"),
        ({"input_ids": torch.zeros(2, 10, dtype=torch.long)}, "does not begin with 4 of it"),
        ({"position_ids": torch.zeros(2, 6)}, "unknown argument"),
        ({"output_attentions": True}, "output_attentions=True is not supported"),
    ],
)
def test_what_does_not_fit_is_told(tmp_path, changes, told):
    reference(marked=True).save_pretrained(tmp_path)
    with pytest.raises(InputError, match=told):
        load(tmp_path)(**{**inputs(2, 2, marked=True), **changes})


def test_queries_that_read_no_text_are_told(tmp_path):
    reference().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["qformer_config"]["use_qformer_text_input"] = False
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="use_qformer_text_input"):
        load(tmp_path)
