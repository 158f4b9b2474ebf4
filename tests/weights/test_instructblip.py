"""InstructBLIP against its reference: known answers, and freshly made random tiny models."""

import pytest
import torch
from safetensors.torch import load_file

from foveal.core.errors import InputError
from foveal.front import load
from tests.weights import test_blip2 as blip2
from tests.weights.test_blip2 import IMAGE, QUERIES, SMALL, TEXTS, TOLERANCE, checkpoint  # noqa: F401


def test_known_answers(known_answers, checkpoint):  # noqa: F811
    known = known_answers("instructblip_opt")
    model = load(checkpoint(known.config, known.weights))
    with torch.no_grad():
        output = model(**known.inputs)
    torch.testing.assert_close(output.logits, known.outputs["logits"], **TOLERANCE)
    torch.testing.assert_close(output.vision_outputs.last_hidden_state, known.outputs["vision"], **TOLERANCE)
    heard = torch.cat([torch.ones(1, 8), known.inputs["qformer_attention_mask"]], dim=1).bool()
    states = output.qformer_outputs.last_hidden_state[heard]
    torch.testing.assert_close(states, known.outputs["qformer"][heard], **TOLERANCE)
    projected = known.outputs["language_projection"].flatten(0, 1)
    torch.testing.assert_close(output.image_hidden_states, projected, **TOLERANCE)


def reference(text="opt", *, seed=0, frequency=2):
    """A random tiny InstructBLIP of transformers."""
    import transformers as hf

    torch.manual_seed(seed)
    words = {"vocab_size": 99, "max_position_embeddings": 64, "bos_token_id": 2, "eos_token_id": 2, "pad_token_id": 1}
    kind = {"opt": hf.OPTConfig, "llama": hf.LlamaConfig}[text]
    config = hf.InstructBlipConfig(
        vision_config={**SMALL, "hidden_size": 24, "image_size": 24, "patch_size": 8},
        qformer_config={
            **{**SMALL, "cross_attention_frequency": frequency},
            **{"vocab_size": 50, "max_position_embeddings": 16},
        },
        text_config=kind(**words, **TEXTS[text]),
        num_query_tokens=QUERIES,
        image_token_index=IMAGE,
    )
    model = blip2.random_weights(hf.InstructBlipForConditionalGeneration(config))
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = 2, 1
    model.language_model.generation_config.eos_token_id = 2
    return model


def inputs(images_by_row, **settings):
    given = blip2.inputs(images_by_row, **settings)
    images = len(given["pixel_values"])
    lengths = [6, 3, 5, 2][:images]
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(4, 50, (images, 6), generator=generator)
    mask = (torch.arange(6) < torch.tensor(lengths)[:, None]).long()
    return {**given, "qformer_input_ids": ids * mask, "qformer_attention_mask": mask}


@pytest.fixture(params=[{}, {"text": "llama"}, {"frequency": 1}], ids=["opt", "llama", "every layer looks"])
def pair(request, tmp_path):
    theirs = reference(seed=4, **request.param)
    theirs.save_pretrained(tmp_path)
    return theirs, load(tmp_path)


@pytest.mark.parametrize("left", [True, False])
def test_equals_transformers(pair, left):
    theirs, ours = pair
    given = inputs([1, 2, 1], left=left)
    valid = given["attention_mask"].bool()
    led = torch.cat([torch.zeros_like(valid[:, :1]), valid[:, :-1]], dim=1)  # what padding predicts is undefined
    labels = torch.where(valid & led & (given["input_ids"] != IMAGE), given["input_ids"], -100)
    with torch.no_grad():
        expected, output = theirs(**given, labels=labels), ours(**given, labels=labels)
    torch.testing.assert_close(output.logits[valid], expected.logits[valid], **TOLERANCE)
    torch.testing.assert_close(output.loss, expected.loss, **TOLERANCE)
    heard = torch.cat([torch.ones(4, QUERIES), given["qformer_attention_mask"]], dim=1).bool()
    states = output.qformer_outputs.last_hidden_state[heard]
    torch.testing.assert_close(states, expected.qformer_outputs.last_hidden_state[heard], **TOLERANCE)


def test_greedy_tokens_equal_transformers(pair):
    theirs, ours = pair
    given = inputs([1, 2, 1])
    length = given["input_ids"].shape[1]
    new = theirs.generate(**given, max_new_tokens=8, do_sample=False)
    assert torch.equal(ours.generate(**given, max_new_tokens=8), new[:, length:] if new.shape[1] > 8 else new)


def test_the_instruction_changes_what_is_seen(pair):
    _, ours = pair
    given = inputs([1])
    other = {**given, "qformer_input_ids": given["qformer_input_ids"].roll(1, 1)}
    with torch.no_grad():
        assert not torch.allclose(ours(**given).image_hidden_states, ours(**other).image_hidden_states, atol=1e-2)


def test_without_a_mask_every_word_is_heard(pair):
    theirs, ours = pair
    given = inputs([1])
    del given["qformer_attention_mask"]
    with torch.no_grad():
        torch.testing.assert_close(ours(**given).logits, theirs(**given).logits, **TOLERANCE)


def test_written_back_it_is_the_same_checkpoint(pair, tmp_path):
    _, ours = pair
    ours.save_pretrained(tmp_path / "back")
    written, given = (load_file(folder / "model.safetensors") for folder in (tmp_path / "back", tmp_path))
    assert written.keys() == given.keys()
    assert all(torch.equal(written[name], given[name]) for name in given)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"qformer_input_ids": None}, "images without an instruction"),
        ({"qformer_input_ids": torch.ones(2, 6, dtype=torch.long)}, "2 instructions in qformer_input_ids but 1 images"),
        ({"pixel_values": torch.randn(2, 3, 24, 24)}, "5 image tokens in input_ids but 2 images bring 10"),
    ],
)
def test_what_does_not_agree_is_told(tmp_path, change, told):
    reference().save_pretrained(tmp_path)
    given = inputs([1])
    if "qformer_input_ids" in change:
        given["qformer_attention_mask"] = None
    with pytest.raises(InputError, match=told):
        load(tmp_path)(**{**given, **change})
