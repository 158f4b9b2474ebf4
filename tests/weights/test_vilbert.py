"""ViLBERT against its references: known answers to the last meeting, tuned heads, maps and what does not fit."""

import json

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from foveal.core.errors import InputError
from foveal.front import load
from foveal.models.config import ModelConfig
from foveal.weights.files import read_checkpoint
from foveal.weights.vilbert_calls import PreTraining, Tasks

TOLERANCE = {"atol": 1e-5, "rtol": 1e-5}
FIXTURES = ["vilbert_beta", "vilbert_multitask", "vilbert_multitask_dynattn"]
CONFIG = {
    "vocab_size": 30, "hidden_size": 12, "num_hidden_layers": 3, "num_attention_heads": 3, "intermediate_size": 14,
    "max_position_embeddings": 16, "v_feature_size": 6, "v_target_size": 5, "v_hidden_size": 8,
    "v_num_hidden_layers": 2, "v_num_attention_heads": 2, "v_intermediate_size": 10, "bi_hidden_size": 4,
    "bi_num_attention_heads": 2,    "v_biattention_id": [0, 1], "t_biattention_id": [1, 1],
}  # fmt: skip


def write(folder, config, weights, name="model.safetensors"):
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    weights = {key: weight.clone() for key, weight in weights.items()}
    save_file(weights, folder / name) if name.endswith(".safetensors") else torch.save(weights, folder / name)
    return folder


def linear(name, out, into):
    return {f"{name}.weight": torch.randn(out, into) * 0.4, f"{name}.bias": torch.randn(out) * 0.4}


def norm(name, width):
    return {f"{name}.weight": 1 + torch.randn(width) * 0.1, f"{name}.bias": torch.randn(width) * 0.1}


def block(name, width, inner):
    parts = {f"attention.self.{part}": (width, width) for part in ("query", "key", "value")}
    parts |= {
        "attention.output.dense": (width, width),
        "intermediate.dense": (inner, width),
        "output.dense": (width, inner),
    }
    state = {key: value for part, size in parts.items() for key, value in linear(f"{name}.{part}", *size).items()}
    return state | norm(f"{name}.attention.output.LayerNorm", width) | norm(f"{name}.output.LayerNorm", width)


def meeting(name):
    state = {}
    for number, kind, width, inner in ((1, "v", 8, 10), (2, "t", 12, 14)):
        for part in ("query", "key", "value"):
            state |= linear(f"{name}.biattention.{part}{number}", 4, width)
        state |= linear(f"{name}.biOutput.dense{number}", width, 4) | linear(
            f"{name}.biOutput.q_dense{number}", width, 4
        )
        state |= norm(f"{name}.biOutput.LayerNorm{number}", width)
        state |= linear(f"{name}.{kind}_intermediate.dense", inner, width)
        state |= linear(f"{name}.{kind}_output.dense", width, inner) | norm(f"{name}.{kind}_output.LayerNorm", width)
    return state


def weights(*more):
    """A random state dict of the reference's names, for CONFIG."""
    torch.manual_seed(0)
    words, sight = "bert.embeddings", "bert.v_embeddings"
    tables = {"word_embeddings": 30, "position_embeddings": 16, "token_type_embeddings": 2}
    state = {f"{words}.{name}.weight": torch.randn(count, 12) for name, count in tables.items()}
    state |= norm(f"{words}.LayerNorm", 12) | norm(f"{sight}.LayerNorm", 8)
    state |= linear(f"{sight}.image_embeddings", 8, 6) | linear(f"{sight}.image_location_embeddings", 8, 5)
    for kind, depth, width, inner in (("layer", 3, 12, 14), ("v_layer", 2, 8, 10)):
        for i in range(depth):
            state |= block(f"bert.encoder.{kind}.{i}", width, inner)
    state |= meeting("bert.encoder.c_layer.0") | meeting("bert.encoder.c_layer.1")
    state |= linear("bert.t_pooler.dense", 4, 12) | linear("bert.v_pooler.dense", 4, 8)
    for kind, width in (("predictions", 12), ("imagePredictions", 8)):
        state |= linear(f"cls.{kind}.transform.dense", width, width) | norm(f"cls.{kind}.transform.LayerNorm", width)
    state |= linear("cls.imagePredictions.decoder", 5, 8) | linear("cls.bi_seq_relationship", 2, 4)
    state |= {
        "cls.predictions.bias": torch.randn(30),
        "cls.predictions.decoder.weight": state[f"{words}.word_embeddings.weight"],
    }
    for part in more:
        state |= part
    return state


def deep(name, labels, into=4):
    return (
        linear(f"{name}.logit_fc.0", 8, into) | norm(f"{name}.logit_fc.2", 8) | linear(f"{name}.logit_fc.3", labels, 8)
    )


def tuned():
    return [
        deep("vil_prediction", 7),
        deep("vil_binary_prediction", 2, 8),
        linear("vil_logit", 1, 4),
        linear("vil_tri_prediction", 3, 4),
        linear("vision_logit", 1, 8),
        linear("linguisic_logit", 1, 12),
    ]


def given(rows=2, **more):
    words, seen = torch.ones(rows, 6, dtype=torch.long), torch.ones(rows, 4, dtype=torch.long)
    words[0, 4:], seen[-1, 3:] = 0, 0
    torch.manual_seed(1)
    parts = {
        "input_ids": torch.randint(1, 30, (rows, 6)),
        "image_feat": torch.randn(rows, 4, 6),
        "image_loc": torch.rand(rows, 4, 5),
        "attention_mask": words,
        "image_attention_mask": seen,
    }
    return {**parts, **more}


def renamed(parts):
    names = {"input_ids": "input_txt", "image_feat": "input_imgs"}
    return {names.get(name, name): part for name, part in parts.items()}


def ask(model, parts, **more):
    with torch.no_grad():
        return model(**parts, **more)


def meetings(model):
    """What every meeting reads, mixes and says, under the names of the known answers, filled by the next run."""
    told, fusion = {}, model.model.fusion
    for i, (to_sight, to_words) in enumerate(zip(fusion.to_sight, fusion.to_words, strict=True)):
        name = f"c_layer{i}."

        def at(look, kind, context, name=name):
            def read(_, parts):
                told[f"{name}in_t"], told[f"{name}in_v"] = parts[:2] if kind == "t" else parts[1::-1]

            look.register_forward_pre_hook(read)
            look.register_forward_hook(lambda *call: told.update({name + kind: call[2]}))
            look.attention.out.register_forward_pre_hook(lambda _, parts: told.update({name + context: parts[0]}))

        at(to_words, "v", "biattention.context2")
        at(to_sight, "t", "biattention.context1")
    return told


@pytest.mark.parametrize("format", [None, "vilbert"])
@pytest.mark.parametrize("name", FIXTURES)
def test_known_answers(known_answers, tmp_path, name, format):
    known = known_answers(name)
    model = load(write(tmp_path, known.config, known.weights), format=format)
    inner = meetings(model)
    output = ask(model, known.inputs)
    words, regions = known.inputs["attention_mask"].bool(), known.inputs["image_attention_mask"].bool()
    assert words.all(1).any()  # so that the stream of words has as many places as they have
    for field, expected in known.outputs.items():
        part, _, place = field.partition(".")
        told = inner[field] if field in inner else getattr(output, part)
        told = told[int(place)] if part == "losses" else told
        some = {words.shape: words, regions.shape: regions}.get(told.shape[:2], slice(None))
        torch.testing.assert_close(told[some], expected[some], **TOLERANCE)
    torch.testing.assert_close(output.loss, sum(known.outputs[f"losses.{i}"] for i in range(3))[0], **TOLERANCE)


@pytest.mark.parametrize("name", FIXTURES)
def test_written_back_to_the_bit(known_answers, tmp_path, name):
    known = known_answers(name)
    load(write(tmp_path / "theirs", known.config, known.weights)).save_pretrained(tmp_path / "back")
    back = read_checkpoint(tmp_path / "back")
    assert back.keys() == known.weights.keys()
    assert all(torch.equal(back[key], weight) for key, weight in known.weights.items())
    assert json.loads((tmp_path / "back" / "config.json").read_text()) == known.config


def test_the_original_file_under_its_own_name_and_tied_words_twice(tmp_path):
    state, asked = weights(), given()
    model = load(write(tmp_path / "bin", CONFIG, state, "pytorch_model_9.bin"))
    assert isinstance(model, PreTraining)
    told = ask(model, asked)
    model.save_pretrained(tmp_path / "back")
    again = ask(load(tmp_path / "back"), asked)
    assert torch.equal(told.prediction_scores_t, again.prediction_scores_t)
    assert torch.equal(told.seq_relationship, again.seq_relationship)


def test_absent_keys_have_the_defaults_of_the_reference_and_the_rest_is_told_by_the_weights(tmp_path):
    gates = {}
    for i in range(2):
        for part in ("dyLinear_q", "dyLinear_k"):
            gates |= linear(f"bert.encoder.v_layer.{i}.attention.self.{part}", 8, 12)
    model = load(write(tmp_path, {**CONFIG, "pooling_method": "sum"}, weights(gates)))
    assert len(model.model.fusion.steering) == 2 and model.model.heads["seq_relationship"].method == "mul"
    assert ModelConfig.parse(model.model.config.dump()) == model.model.config


def test_losses_come_with_their_labels_alone(tmp_path):
    state, asked = weights(), given()
    told = ask(load(write(tmp_path / "classes", CONFIG, state)), asked)
    assert told.losses == (None, None, None) and told.loss is None and told.all_attention_mask is None
    hidden, target = torch.tensor([[1, 0, 1], [0, 1, -1]]), torch.randn(2, 3, 5).softmax(-1)
    regions = {"image_label": hidden, "image_target": target}
    scores, hidden = told.prediction_scores_v[:, 1:], hidden == 1
    for name, more in (("nats", {}), ("squares", {"visual_target": 1}), ("beta", {"predict_feature": True})):
        loss = ask(load(write(tmp_path / name, CONFIG | more, state)), asked, **regions).losses[1]
        nats = (target * (target.log() - scores.log_softmax(-1))).sum(-1)
        off = (scores - target).square().mean(-1) if more else nats
        torch.testing.assert_close(loss[0], off[hidden].mean(), **TOLERANCE)
    pair = ask(load(tmp_path / "classes"), asked, next_sentence_label=torch.tensor([1, 0]))
    torch.testing.assert_close(pair.loss, F.cross_entropy(told.seq_relationship, torch.tensor([1, 0])), **TOLERANCE)


def test_a_loss_of_which_nothing_is_wanted_is_0(tmp_path):
    model, asked = load(write(tmp_path, CONFIG, weights())), given()
    nothing = torch.full((2, 6), -1)
    regions = {"image_label": torch.zeros(2, 3, dtype=torch.long), "image_target": torch.rand(2, 3, 5)}
    told = ask(model, asked, masked_lm_labels=nothing, **regions)
    assert told.loss == 0 and [loss.tolist() for loss in told.losses[:2]] == [[0], [0]]
    some = nothing.clone()
    some[0, 1] = 3
    one = ask(model, asked, masked_lm_labels=some).loss
    torch.testing.assert_close(one, F.cross_entropy(told.prediction_scores_t[0, 1], torch.tensor(3)), **TOLERANCE)


@pytest.mark.parametrize("kind", [PreTraining, Tasks])
def test_arguments_that_change_nothing_and_features_of_another_precision_are_taken(tmp_path, kind):
    state = weights(*(tuned() if kind is Tasks else ()))
    model = load(write(tmp_path, CONFIG, state), dtype="bfloat16")
    assert isinstance(model, kind)
    told = ask(model, renamed(given()) if kind is Tasks else given(), return_dict=True)
    assert told.seq_relationship.dtype == torch.bfloat16
    with pytest.raises(InputError, match="unknown argument 'more'"):
        ask(model, renamed(given()) if kind is Tasks else given(), more=None)


def test_tuned_heads_are_the_formula_over_the_pooled_product(tmp_path):
    state = weights(*tuned())
    model, asked = load(write(tmp_path / "theirs", CONFIG, state)), renamed(given())
    assert isinstance(model, Tasks)
    told = ask(model, asked)

    def of(name, values):
        return F.linear(values, state[f"{name}.weight"], state[f"{name}.bias"])

    def through(name, values):
        inner = F.gelu(of(f"{name}.logit_fc.0", values))
        inner = F.layer_norm(inner, (8,), state[f"{name}.logit_fc.2.weight"], state[f"{name}.logit_fc.2.bias"], 1e-12)
        return of(f"{name}.logit_fc.3", inner)

    both = (
        of("bert.t_pooler.dense", told.sequence_t[:, 0]).relu()
        * of("bert.v_pooler.dense", told.sequence_v[:, 0]).relu()
    )
    away = 1e4 * (1 - asked["image_attention_mask"])[..., None]
    for name, expected in (
        ("seq_relationship", of("cls.bi_seq_relationship", both)),
        ("vil_prediction", through("vil_prediction", both)),
        ("vil_binary_prediction", through("vil_binary_prediction", both.view(1, 8))),
        ("vil_logit", of("vil_logit", both)),
        ("vil_tri_prediction", of("vil_tri_prediction", both)),
        ("vision_logit", of("vision_logit", told.sequence_v) - away),
        ("linguisic_logit", of("linguisic_logit", told.sequence_t)),
    ):
        torch.testing.assert_close(getattr(told, name), expected, **TOLERANCE)
    assert told.vil_prediction_gqa is None and ask(model, renamed(given(3))).vil_binary_prediction is None
    model.save_pretrained(tmp_path / "back")
    back = read_checkpoint(tmp_path / "back")
    assert all(torch.equal(state[name], weight) for name, weight in back.items())
    assert state.keys() - back.keys() == {"cls.predictions.decoder.weight"}  # it is the table of words


def test_the_first_form_norms_the_weights_of_its_classifier(tmp_path):
    parts = {}
    for layer, (out, into) in ((0, (8, 4)), (3, (7, 8))):
        name = f"vil_prediction.main.{layer}"
        parts |= {f"{name}.weight_v": torch.randn(out, into), f"{name}.weight_g": torch.tensor(2.0 + layer)}
        parts |= {f"{name}.bias": torch.randn(out)}
    model, asked = load(write(tmp_path / "theirs", CONFIG, weights(parts))), renamed(given())
    told = ask(model, asked)
    joined = told.pooled_t * told.pooled_v
    for layer, activation in ((0, torch.relu), (3, torch.nn.Identity())):
        way, length, bias = (parts[f"vil_prediction.main.{layer}.{part}"] for part in ("weight_v", "weight_g", "bias"))
        joined = activation(F.linear(joined, way / way.norm() * length, bias))
    torch.testing.assert_close(told.vil_prediction, joined, **TOLERANCE)
    model.save_pretrained(tmp_path / "back")
    assert read_checkpoint(tmp_path / "back").keys() >= parts.keys()
    torch.testing.assert_close(ask(load(tmp_path / "back"), asked).vil_prediction, told.vil_prediction, **TOLERANCE)


def test_a_task_stands_after_the_first_word(tmp_path):
    table = {"bert.embeddings.task_embeddings.weight": torch.randn(20, 12)}
    model, asked = load(write(tmp_path / "theirs", CONFIG, weights(*tuned(), table))), renamed(given())
    one, two = (ask(model, asked, task_ids=torch.tensor([[3], [task]])) for task in (3, 7))
    assert one.linguisic_logit.shape == (2, 7, 1)
    torch.testing.assert_close(one.vil_prediction[0], two.vil_prediction[0], **TOLERANCE)
    assert (one.linguisic_logit[1] - two.linguisic_logit[1]).abs().max() > 1e-3
    for wrong, said in (
        (None, "no task_ids but 2 texts"),
        (torch.tensor([1, 20]), "task 20 but the checkpoint knows 20"),
    ):
        with pytest.raises(InputError, match=said):
            ask(model, asked, task_ids=wrong)


def test_one_text_is_asked_of_many_images(tmp_path):
    state, asked = weights(), given()
    one = {name: part[:1] if name in ("input_ids", "attention_mask") else part for name, part in asked.items()}
    told = ask(load(write(tmp_path, {**CONFIG, "fast_mode": True}, state)), one)
    both = {
        **asked,
        **{name: part.expand(2, -1) for name, part in one.items() if name in ("input_ids", "attention_mask")},
    }
    torch.testing.assert_close(told.seq_relationship, ask(load(tmp_path), both).seq_relationship, **TOLERANCE)


def test_maps_come_when_asked_and_have_the_places_of_the_arguments(tmp_path):
    model, asked = load(write(tmp_path, CONFIG, weights())), given()
    asked["attention_mask"][:, 5] = 0  # so that no row has as many words as places
    words, regions = asked["attention_mask"].float(), asked["image_attention_mask"].float()
    maps = ask(model, asked, output_all_attention_masks=True).all_attention_mask
    for kind, count, rows, columns in (
        ("words", 3, words, words),
        ("sight", 2, regions, regions),
        ("to_sight", 2, words, regions),
        ("to_words", 2, regions, words),
    ):
        assert len(getattr(maps, kind)) == count
        for share in getattr(maps, kind):
            assert share.shape[2:] == (rows.shape[1], columns.shape[1])
            torch.testing.assert_close(share.sum(-1), rows[:, None].expand(share.shape[:3]), **TOLERANCE)
            assert (share * (1 - columns)[:, None, None]).abs().max() == 0


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"image_feat": torch.zeros(2, 4, 7)}, "7 numbers a region in image_feat but 6 in"),
        ({"image_feat": torch.zeros(1, 4, 6)}, "1 rows of image_feat but 2"),
        (
            {"image_loc": torch.zeros(2, 4, 4)},
            "4 numbers a region in image_loc but 5 in the checkpoint's config; give x0",
        ),
        ({"image_loc": torch.zeros(2, 3, 5)}, "3 entries of image_loc but 4 regions in image_feat"),
        ({"attention_mask": torch.ones(2, 5)}, "5 entries of a mask of words but 6 tokens"),
        ({"image_attention_mask": torch.ones(2, 3)}, "3 entries of a mask but 4 regions"),
        ({"token_type_ids": torch.zeros(2, 5, dtype=torch.long)}, "5 entries of token types but 6 tokens"),
        ({"masked_lm_labels": torch.zeros(2, 5, dtype=torch.long)}, r"\[2, 5\] masked_lm_labels but \[2, 6\] places"),
        ({"image_label": torch.zeros(2, 3, dtype=torch.long)}, "give both or neither"),
        (
            {"image_label": torch.zeros(2, 4, dtype=torch.long), "image_target": torch.zeros(2, 4, 5)},
            r"\[2, 4\] image_label but \[2, 3\] places",
        ),
        ({"output_attentions": True}, "output_attentions=True is not supported"),
        ({"next_sentence_labels": None}, "did you mean 'next_sentence_label'"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, changed, said):
    with pytest.raises(InputError, match=said):
        ask(load(write(tmp_path, CONFIG, weights())), given(**changed))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"with_coattention": False}, "with_coattention False is not supported"),
        ({"in_batch_pairs": True}, "in_batch_pairs True is not supported; give every text with every image"),
        ({"v_hidden_act": "relu"}, "hidden_act 'gelu' but v_hidden_act 'relu'"),
        ({"v_biattention_id": [0]}, "2 entries of t_biattention_id but 1 of v_biattention_id"),
        ({"fusion_method": "cat"}, "cat"),
    ],
)
def test_a_config_that_is_not_supported_is_named(tmp_path, changed, said):
    with pytest.raises(InputError, match=said):
        load(write(tmp_path, CONFIG | changed, weights()))


def test_a_weight_that_does_not_fit_is_named(tmp_path):
    state = weights()
    bare = {name: weight for name, weight in state.items() if name != "bert.encoder.c_layer.1.biattention.key2.bias"}
    for name, changed, said in (
        ("missing", bare, r"missing: bert\.encoder\.c_layer\.1\.biattention\.key2\.bias"),
        ("unexpected", state | {"bert.more.weight": torch.zeros(1)}, r"unexpected: bert\.more\.weight"),
        (
            "shape",
            state | {"bert.t_pooler.dense.bias": torch.zeros(3)},
            r"bert\.t_pooler\.dense\.bias \[3\] where \[4\]",
        ),
    ):
        with pytest.raises(InputError, match=said):
            load(write(tmp_path / name, CONFIG, changed))
