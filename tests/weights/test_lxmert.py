"""LXMERT against its reference: known answers, and freshly made random tiny models."""

import json

import pytest
import torch
from safetensors.torch import save_file

from foveal.core.errors import InputError
from foveal.front import load
from foveal.weights.files import read_checkpoint

TOLERANCE = {"atol": 1e-5, "rtol": 1e-5}


def test_known_answers(known_answers, tmp_path):
    known = known_answers("lxmert")
    (tmp_path / "config.json").write_text(json.dumps(known.config))
    save_file({name: weight.clone() for name, weight in known.weights.items()}, tmp_path / "model.safetensors")
    with torch.no_grad():
        output = load(tmp_path)(**known.inputs, output_hidden_states=True)
    words, regions = known.inputs["attention_mask"].bool(), known.inputs["visual_attention_mask"].bool()
    valid = {"prediction_logits": words, "language_output": words, "vision_output": regions}
    for name, expected in known.outputs.items():
        field, _, place = name.partition(".")
        told = getattr(output, field) if not place else getattr(output, field)[int(place)]
        some = valid.get(field, (regions if "vision" in field else words) if place else slice(None))
        torch.testing.assert_close(told[some], expected[some], **TOLERANCE)


def reference(seed, kind="LxmertForPreTraining", **more):
    """A random tiny LXMERT of transformers."""
    import transformers as hf

    torch.manual_seed(seed)
    config = hf.LxmertConfig(
        vocab_size=50, hidden_size=32, num_attention_heads=2, intermediate_size=40, visual_feat_dim=12, l_layers=3,
        r_layers=2, x_layers=1, num_qa_labels=6, num_object_labels=7, num_attr_labels=4, max_position_embeddings=16,
        **more,
    )  # fmt: skip
    model = getattr(hf, kind)(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(std=0.3)
    return model


def given(**more):
    words, seen = torch.ones(2, 6, dtype=torch.long), torch.ones(2, 4, dtype=torch.long)
    words[1, 4:], seen[0, 1] = 0, 0
    parts = {
        "input_ids": torch.randint(1, 50, (2, 6)),
        "attention_mask": words,
        "token_type_ids": torch.randint(0, 2, (2, 6)),
        "visual_feats": torch.randn(2, 4, 12),
        "visual_pos": torch.rand(2, 4, 4),
        "visual_attention_mask": seen,
    }
    return {**parts, **more}


def labels():
    counts = torch.rand(2, 4)
    return {
        "labels": torch.tensor([[3, -100, 5, -100, -100, -100], [-100, 1, -100, -100, -100, -100]]),
        "matched_label": torch.tensor([0, 1]),
        "ans": torch.tensor([5, 2]),
        "obj_labels": {
            "obj": (torch.randint(0, 7, (2, 4)), counts),
            "attr": (torch.randint(0, 4, (2, 4)), counts),
            "feat": (torch.randn(2, 4, 12), counts),
        },
    }


@pytest.mark.parametrize(("seed", "tied"), [(0, True), (1, True), (2, False)])
def test_equal_to_the_reference_and_written_back_to_it(tmp_path, seed, tied):
    import transformers as hf

    theirs, asked, wanted = reference(seed, tie_word_embeddings=tied), given(), labels()
    del asked["visual_attention_mask"]  # the loss of regions counts masked ones too
    theirs.save_pretrained(tmp_path / "theirs")
    ours = load(tmp_path / "theirs")
    with torch.no_grad():
        expected = theirs(**asked, **wanted, output_hidden_states=True)
        mine = ours(**asked, **wanted, output_hidden_states=True)
    torch.testing.assert_close(mine.loss, expected.loss, **TOLERANCE)
    for name in ("cross_relationship_score", "question_answering_score", "vision_hidden_states"):
        for one, other in zip(getattr(mine, name), getattr(expected, name), strict=True):
            torch.testing.assert_close(one, other, **TOLERANCE)
    ours.save_pretrained(tmp_path / "back")
    back = hf.LxmertForPreTraining.from_pretrained(tmp_path / "back").state_dict()
    for name, weight in theirs.state_dict().items():
        assert torch.equal(back[name], weight), name


@pytest.mark.parametrize("kind", ["LxmertModel", "LxmertForQuestionAnswering"])
def test_a_model_alone_and_one_that_answers(tmp_path, kind):
    theirs, asked = reference(2, kind), given()
    theirs.save_pretrained(tmp_path)
    answers = {"labels": torch.tensor([1, 4])} if kind == "LxmertForQuestionAnswering" else {}
    with torch.no_grad():
        expected, mine = theirs(**asked, **answers), load(tmp_path)(**asked, **answers)
    if answers:
        torch.testing.assert_close(mine.loss, expected.loss, **TOLERANCE)
        torch.testing.assert_close(mine.question_answering_score, expected.question_answering_score, **TOLERANCE)
    else:
        torch.testing.assert_close(mine.pooled_output, expected.pooled_output, **TOLERANCE)


def test_arguments_that_change_nothing_and_features_of_another_precision_are_taken(tmp_path):
    reference(6).save_pretrained(tmp_path)
    told = load(tmp_path, dtype="bfloat16")(**given(), **labels(), return_dict=True)
    assert told.prediction_logits.dtype == torch.bfloat16 and told.loss.isfinite()
    assert load(tmp_path)(**given(), return_dict=True).loss is None


def test_padding_on_the_left_equals_that_of_the_reference(tmp_path):
    theirs, asked = reference(5, "LxmertForQuestionAnswering"), given()
    theirs.save_pretrained(tmp_path)
    asked["attention_mask"] = asked["attention_mask"].flip(1)
    with torch.no_grad():
        expected, mine = theirs(**asked), load(tmp_path)(**asked)
    torch.testing.assert_close(mine.question_answering_score, expected.question_answering_score, **TOLERANCE)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"visual_feats": None}, "both wanted"),
        ({"visual_feats": torch.zeros(1, 4, 12)}, "1 rows of visual_feats but 2"),
        ({"visual_pos": torch.zeros(2, 3, 4)}, "3 entries of visual_pos but 4 regions"),
        ({"visual_attention_mask": torch.ones(2, 3, dtype=torch.long)}, "3 entries of a mask but 4 regions"),
        ({"visual_feats": torch.zeros(2, 4, 9)}, "9 numbers a region in visual_feats but 12"),
        ({"visual_pos": torch.zeros(2, 4, 5)}, "5 numbers a region in visual_pos but 4"),
        ({"output_attentions": True}, "output_attentions=True is not supported"),
        ({"answers": None}, "unknown argument 'answers'"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, changed, said):
    reference(3, "LxmertModel").save_pretrained(tmp_path)
    with pytest.raises(InputError, match=said):
        load(tmp_path)(**given(**changed))


def test_a_missing_weight_is_named(tmp_path):
    reference(4).save_pretrained(tmp_path)
    state = read_checkpoint(tmp_path)
    save_file({name: weight for name, weight in state.items() if "pooler.dense.bias" not in name},
              tmp_path / "model.safetensors")  # fmt: skip
    with pytest.raises(InputError, match=r"missing: lxmert\.pooler\.dense\.bias"):
        load(tmp_path)
