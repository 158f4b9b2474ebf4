"""VisualBERT against its reference: known answers, and freshly made random tiny models."""

import json

import pytest
import torch
from safetensors.torch import save_file

from foveal.core.errors import InputError
from foveal.front import load
from foveal.weights.files import read_checkpoint

TOLERANCE = {"atol": 1e-5, "rtol": 1e-5}


@pytest.fixture
def checkpoint(tmp_path):
    def write(config, state):
        (tmp_path / "config.json").write_text(json.dumps(config))
        save_file({name: tensor.clone() for name, tensor in state.items()}, tmp_path / "model.safetensors")
        return tmp_path

    return write


@pytest.mark.parametrize("case", ["align", "noalign"])
def test_known_answers(known_answers, checkpoint, case):
    known = known_answers("visualbert_pretraining")
    model = load(checkpoint(known.config, known.weights))
    given = dict(known.inputs)
    if case == "align":
        given = {name: value for name, value in given.items() if name not in ("labels", "sentence_image_labels")}
    else:
        del given["image_text_alignment"]
    output = model(**given, output_hidden_states=True)
    valid = torch.cat([known.inputs["attention_mask"], known.inputs["visual_attention_mask"]], 1).bool()
    expected = {name.removeprefix(f"{case}."): of for name, of in known.outputs.items() if name.startswith(f"{case}.")}
    torch.testing.assert_close(output.prediction_logits[valid], expected["prediction_logits"][valid], **TOLERANCE)
    torch.testing.assert_close(output.seq_relationship_logits, expected["seq_relationship_logits"], **TOLERANCE)
    for i, state in enumerate(output.hidden_states):
        torch.testing.assert_close(state[valid], expected[f"hidden_states.{i}"][valid], **TOLERANCE)
    if case == "noalign":
        torch.testing.assert_close(output.loss, expected["loss"][0], **TOLERANCE)


def reference(seed, kind="PreTraining", **more):
    """A random tiny VisualBERT of transformers."""
    import transformers as hf

    torch.manual_seed(seed)
    config = hf.VisualBertConfig(
        vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=40,
        visual_embedding_dim=12, max_position_embeddings=32, type_vocab_size=3, hidden_act="relu", **more,
    )  # fmt: skip
    model = getattr(hf, f"VisualBertFor{kind}")(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(std=0.3)
    return model


@pytest.mark.parametrize(("seed", "tied"), [(0, True), (1, True), (2, False)])
def test_equal_to_the_reference_and_written_back_to_it(tmp_path, seed, tied):
    import transformers as hf

    theirs = reference(seed, tie_word_embeddings=tied)
    theirs.save_pretrained(tmp_path / "theirs")
    ours = load(tmp_path / "theirs")
    given = {
        "input_ids": torch.randint(0, 50, (3, 7)),
        "visual_embeds": torch.randn(3, 4, 12),
        "attention_mask": torch.ones(3, 7, dtype=torch.long),
        "visual_attention_mask": torch.ones(3, 4, dtype=torch.long),
        "visual_token_type_ids": torch.full((3, 4), 2),
        "labels": torch.randint(0, 50, (3, 11)),
        "sentence_image_labels": torch.tensor([0, 1, 1]),
    }
    with torch.no_grad():
        expected, mine = theirs(**given), ours(**given)
    for name in ("loss", "prediction_logits", "seq_relationship_logits"):
        torch.testing.assert_close(getattr(mine, name), getattr(expected, name), **TOLERANCE)
    ours.save_pretrained(tmp_path / "back")
    back = hf.VisualBertForPreTraining.from_pretrained(tmp_path / "back").state_dict()
    for name, weight in theirs.state_dict().items():
        if tied or name != "cls.predictions.bias":  # which a reference that is not tied never asks
            assert torch.equal(back[name], weight), name


def test_a_row_alone_equals_itself_beside_others(tmp_path):
    reference(2).save_pretrained(tmp_path)
    model = load(tmp_path)
    ids, sight = torch.randint(0, 50, (2, 6)), torch.randn(2, 3, 12)
    some = torch.tensor([[1] * 6, [1, 1, 1, 1, 0, 0]])
    seen = torch.tensor([[1, 1, 1], [1, 0, 0]])
    with torch.no_grad():
        both = model(ids, sight, attention_mask=some, visual_attention_mask=seen).prediction_logits[1]
        alone = model(ids[1:, :4], sight[1:, :1]).prediction_logits[0]
        blind = model(ids[1:, :4]).prediction_logits[0]
    torch.testing.assert_close(both[[0, 1, 2, 3, 6]], alone, **TOLERANCE)
    assert not torch.allclose(alone[:4], blind, atol=1e-3)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"visual_embeds": torch.zeros(2, 3, 9)}, "9 numbers a region in visual_embeds but 12"),
        ({"visual_embeds": torch.zeros(1, 3, 12)}, "1 rows of visual_embeds but 2"),
        ({"visual_attention_mask": torch.ones(2, 4, dtype=torch.long)}, "4 entries of a mask but 3 regions"),
        ({"attention_mask": torch.ones(2, 4, dtype=torch.long)}, "4 entries of a mask of words but 6 tokens"),
        ({"attention_mask": torch.ones(1, 6, dtype=torch.long)}, "1 rows of a mask of words but 2"),
        ({"attention_mask": torch.ones(2, 6, 6, dtype=torch.long)}, "3 axes of a mask of words but 2"),
        ({"token_type_ids": torch.zeros(2, 4, dtype=torch.long)}, "4 entries of token types but 6 tokens"),
        ({"position_ids": torch.zeros(1, 6, dtype=torch.long)}, "1 rows of positions but 2"),
        ({"visual_token_type_ids": torch.zeros(2, 4, dtype=torch.long)}, "4 entries of types of regions but 3"),
        ({"image_text_alignment": torch.zeros(2, 2, 1, dtype=torch.long)}, "2 entries of an alignment but 3 regions"),
        ({"image_text_alignment": torch.zeros(1, 3, 1, dtype=torch.long)}, "1 rows of an alignment but 2"),
        ({"output_attentions": True}, "output_attentions=True is not supported; leave it out"),
        ({"atention_mask": None}, "unknown argument 'atention_mask'; did you mean 'attention_mask'"),
        ({"labels": torch.zeros(2, 5, dtype=torch.long)}, "5 labels but 9"),
        ({"visual_embeds": torch.full((2, 3, 12), float("nan"))}, "visual_embeds holds 72 values that are no numbers"),
        ({"input_ids": torch.full((2, 6), 50)}, "input_ids from 50 to 50 but the model has 50 words"),
        ({"input_ids": torch.zeros(2, 40, dtype=torch.long)}, "40 tokens for an encoder of 32"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, changed, said):
    reference(3).save_pretrained(tmp_path)
    given = {"input_ids": torch.zeros(2, 6, dtype=torch.long), "visual_embeds": torch.zeros(2, 3, 12), **changed}
    with pytest.raises(InputError, match=said):
        load(tmp_path)(**given)


def test_a_bias_that_old_files_hold_in_two_spellings_is_one(tmp_path):
    theirs = reference(4)
    theirs.save_pretrained(tmp_path)
    expected = load(tmp_path).state_dict()
    state = {name: weight.clone() for name, weight in theirs.state_dict().items()}
    assert {"cls.predictions.bias", "cls.predictions.decoder.bias"} <= state.keys()
    save_file(state, tmp_path / "model.safetensors")
    for name, weight in load(tmp_path).state_dict().items():
        assert torch.equal(weight, expected[name]), name
    state["cls.predictions.bias"] += 1
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match="two spellings of one weight; keep one"):
        load(tmp_path)


def test_a_missing_weight_is_named(tmp_path):
    reference(4).save_pretrained(tmp_path)
    state = read_checkpoint(tmp_path)
    save_file({name: weight for name, weight in state.items() if "visual_projection.bias" not in name},
              tmp_path / "model.safetensors")  # fmt: skip
    with pytest.raises(InputError, match=r"missing: visual_bert\.embeddings\.visual_projection\.bias"):
        load(tmp_path)


def asked(*rows, length=7, regions=4):
    """Two regions of padding, and one word."""
    words, seen = torch.ones(*rows, length, dtype=torch.long), torch.ones(*rows, regions, dtype=torch.long)
    words[..., -1], seen[..., 0, -2:] = 0, 0
    return {
        "input_ids": torch.randint(0, 50, (*rows, length)),
        "visual_embeds": torch.randn(*rows, regions, 12),
        "attention_mask": words,
        "visual_attention_mask": seen,
        "visual_token_type_ids": torch.randint(0, 3, (*rows, regions)),
    }


LABELS = {
    "MultipleChoice": ((2, 4), torch.tensor([3, 0])),
    "VisualReasoning": ((3,), torch.tensor([1, 0, 4])),
    "QuestionAnswering": ((3,), torch.softmax(torch.arange(15.0).view(3, 5).sin(), -1)),
}


@pytest.mark.parametrize("kind", ["PreTraining", "MultipleChoice"])
def test_arguments_that_change_nothing_and_features_of_another_precision_are_taken(tmp_path, kind):
    reference(8, kind).save_pretrained(tmp_path)
    given = asked(2, 3) if kind == "MultipleChoice" else asked(2)
    told = load(tmp_path, dtype="bfloat16")(**given, return_dict=True, output_attentions=False, inputs_embeds=None)
    assert (told.logits if kind == "MultipleChoice" else told.prediction_logits).dtype == torch.bfloat16


def test_padding_on_the_left_equals_that_of_the_reference(tmp_path):
    theirs = reference(7, "VisualReasoning", num_labels=5)
    theirs.save_pretrained(tmp_path)
    given = asked(3)
    given["attention_mask"] = given["attention_mask"].flip(1)
    with torch.no_grad():
        torch.testing.assert_close(load(tmp_path)(**given).logits, theirs(**given).logits, **TOLERANCE)


@pytest.mark.parametrize("kind", LABELS)
def test_answers_equal_those_of_the_reference(tmp_path, kind):
    import transformers as hf

    theirs = reference(5, kind, num_labels=5)
    theirs.save_pretrained(tmp_path / "theirs")
    ours = load(tmp_path / "theirs")
    rows, labels = LABELS[kind]
    left = asked(*rows)
    left["attention_mask"] = left["attention_mask"].flip(-1)  # the reference pools what stands in column 0 all the same
    for given in (asked(*rows), left, {**asked(*rows), "labels": labels}):
        with torch.no_grad():
            expected, mine = theirs(**given, output_hidden_states=True), ours(**given, output_hidden_states=True)
        torch.testing.assert_close(mine.logits, expected.logits, **TOLERANCE)
        torch.testing.assert_close(mine.hidden_states[0], expected.hidden_states[0], **TOLERANCE)
        if "labels" in given:
            torch.testing.assert_close(mine.loss, expected.loss, **TOLERANCE)
    ours.save_pretrained(tmp_path / "back")
    again = getattr(hf, f"VisualBertFor{kind}").from_pretrained(tmp_path / "back").eval()
    with torch.no_grad():
        torch.testing.assert_close(again(**given).logits, expected.logits, **TOLERANCE)


def test_a_text_without_a_word_to_answer_at_and_another_architecture_are_told(tmp_path):
    reference(6, "QuestionAnswering").save_pretrained(tmp_path)
    with pytest.raises(InputError, match="fewer than 2 tokens"):
        load(tmp_path)(torch.zeros(1, 1, dtype=torch.long), torch.zeros(1, 2, 12))
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "architectures": ["VisualBertForSleeping"]}))
    with pytest.raises(InputError, match=r"unknown architecture 'VisualBertForSleeping' .*loads VisualBertForPre"):
        load(tmp_path)
