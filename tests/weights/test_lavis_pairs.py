"""LAVIS's first stage: a random tiny model of transformers under LAVIS's names, with the head that writes."""

import pytest
import torch
from safetensors.torch import load_file

from foveal.core.errors import InputError
from foveal.front import load
from tests.weights import test_blip2_pairs as pairs
from tests.weights import test_lavis as lavis
from tests.weights.test_blip2 import TOLERANCE, random_weights

NAMES = {  # of parts that its second stage lacks
    "vision_projection": "vision_proj",
    "text_projection": "text_proj",
    "embeddings.word": "Qformer.bert.embeddings.word",
    "embeddings.position_embeddings": "Qformer.bert.embeddings.position_embeddings",
}
WORDS, WRITER = "Qformer.bert.embeddings.word_embeddings.weight", "Qformer.cls.predictions."
VECTOR = {"atol": 1e-6, "rtol": 1e-6}


@pytest.fixture
def model():
    return lavis.as_lavis(pairs.reference(seed=2))


@pytest.fixture
def writer():
    return bert_writer()


def bert_writer():
    """BERT's head of words, as LAVIS has it."""
    import transformers as hf
    from transformers.models.bert.modeling_bert import BertLMPredictionHead

    torch.manual_seed(5)
    config = hf.BertConfig(hidden_size=pairs.SMALL["hidden_size"], vocab_size=61, layer_norm_eps=1e-12)
    return random_weights(BertLMPredictionHead(config))


def theirs_of(model, writer, *, tied=True):
    state = {}
    for name, weight in lavis.theirs_of(model).items():
        for part, other in NAMES.items():
            name = name.replace(part, other) if name.startswith(part) else name
        state[name] = weight
    with torch.no_grad():
        if tied:
            writer.decoder.weight.copy_(model.embeddings.word_embeddings.weight)
        writer.decoder.bias = writer.bias
    head = {f"{WRITER}{name}": weight.clone() for name, weight in writer.state_dict().items()}
    position = {"Qformer.bert.embeddings.position_ids": torch.arange(16)[None]}
    return {**state, **head, **position, "temp": torch.tensor(0.05)}


def config_of(**more):
    return {"model_type": "blip2", "num_query_token": pairs.QUERIES, "vision_heads": 4, "heads": 4, **more}


@pytest.mark.parametrize("matched", [False, True])
def test_a_whole_file_equals_transformers(model, writer, tmp_path, matched):
    ours, given = load(lavis.write(tmp_path, config_of(), theirs_of(model, writer))), pairs.inputs(3, 3)
    with torch.no_grad():
        expected = model(**given, use_image_text_matching_head=matched)
        pairs.told_alike(ours(**given, use_image_text_matching_head=matched), expected)


def test_our_products_are_over_its_temperature(model, writer, tmp_path):
    ours, given = load(lavis.write(tmp_path, config_of(), theirs_of(model, writer))).model, pairs.inputs(3, 3)
    with torch.no_grad():
        vectors = ours(pairs.batch_of(given), at={"pair": None}).logits
        cosines = model(**given).logits_per_image
    products = (vectors[:, None, :-1] @ vectors[None, :, -1:].mT)[..., 0].amax(-1)
    torch.testing.assert_close(products, cosines / 0.05, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("tied", [True, False])
def test_what_it_writes_is_what_the_reference_writes(model, writer, tmp_path, tied):
    state, given = theirs_of(model, writer, tied=tied), pairs.inputs(3, 3)
    ours = load(lavis.write(tmp_path, config_of(), state)).model
    count, words = pairs.QUERIES, given["input_ids"].shape[1]
    place = torch.arange(1 - count, words + 1).clamp(min=0)  # queries see each other, words what stands before them
    sees = (place[None, :] <= place[:, None])[None] & torch.cat(
        [torch.ones(3, count, dtype=torch.bool), given["attention_mask"].bool()], dim=1
    )[:, None]
    with torch.no_grad():
        queries = model.query_tokens.expand(3, -1, -1)
        embeds = model.embeddings(input_ids=given["input_ids"], query_embeds=queries)
        sight = model.vision_model(given["pixel_values"]).last_hidden_state
        states = model.qformer(
            embeds, query_length=count, attention_mask=sees[:, None], encoder_hidden_states=sight
        ).last_hidden_state
        expected = writer(states[:, count:])
        told = ours(pairs.batch_of(given), at={"write": None}).logits
    there = given["attention_mask"].bool()
    torch.testing.assert_close(told[there], expected[there], **TOLERANCE)


def test_a_bias_from_before_the_table_grew_is_not_read(model, writer, tmp_path):
    state, given = theirs_of(model, writer), pairs.batch_of(pairs.inputs(2, 2))
    whole = load(lavis.write(tmp_path / "a", config_of(), state)).model
    old = {**state, f"{WRITER}bias": torch.zeros(60)}
    alone = {name: weight for name, weight in state.items() if name != f"{WRITER}decoder.bias"}
    with torch.no_grad():
        expected = whole(given, at={"write": None}).logits
        for place, given_state in (("b", old), ("c", alone)):
            ours = load(lavis.write(tmp_path / place, config_of(), given_state)).model
            assert torch.equal(ours(given, at={"write": None}).logits, expected)


def test_the_frozen_tower_lies_in_a_file_of_its_own(model, writer, tmp_path):
    state, given = theirs_of(model, writer), pairs.inputs(2, 2)
    whole = load(lavis.write(tmp_path / "a", config_of(), state))
    learned = {name: weight for name, weight in state.items() if not name.startswith("visual_encoder.")}
    folder = lavis.write(tmp_path / "b", config_of(), learned)
    with pytest.raises(InputError, match=r"no visual_encoder\.\* weights; put eva_vit_g\.pth there"):
        load(folder)
    tower = {name.removeprefix("visual_encoder."): w for name, w in state.items() if name.startswith("visual_encoder.")}
    torch.save({**tower, "norm.weight": torch.ones(24)}, folder / "eva_vit_g.pth")
    with torch.no_grad():
        assert torch.equal(load(folder, format="lavis")(**given).logits_per_image, whole(**given).logits_per_image)


def test_written_back_it_has_the_same_weights(model, writer, tmp_path):
    state, given = theirs_of(model, writer), pairs.inputs(2, 2)
    ours = load(lavis.write(tmp_path / "there", config_of(), state))
    again = load(ours.save(tmp_path / "back"))
    back = load_file(tmp_path / "back" / "model.safetensors")
    one = {
        f"{WRITER}decoder.weight",
        f"{WRITER}bias",
        "Qformer.bert.embeddings.position_ids",
    }  # two names, or no weight
    assert back.keys() == state.keys() - one
    torch.testing.assert_close(back.pop("temp"), state["temp"], **VECTOR)
    assert all(torch.equal(back[name], state[name]) for name in back)
    with torch.no_grad():
        for matched in (False, True):
            assert torch.equal(
                again(**given, use_image_text_matching_head=matched).logits_per_image,
                ours(**given, use_image_text_matching_head=matched).logits_per_image,
            )


@pytest.mark.parametrize(
    ("absent", "told"),
    [
        ("query_tokens", "holds no query_tokens"),
        ("vision_proj.weight", r"holds no vision_proj\.weight, which the first stage has"),
        ("temp", "missing: temp"),
        ("itm_head.bias", r"missing: itm_head\.bias"),
        (f"{WRITER}transform.dense.weight", r"missing: Qformer\.cls\.predictions\.transform\.dense\.weight"),
    ],
)
def test_what_is_absent_is_named(model, writer, tmp_path, absent, told):
    state = theirs_of(model, writer)
    del state[absent]
    with pytest.raises(InputError, match=told):
        load(lavis.write(tmp_path, config_of(), state))


def test_another_number_of_queries_is_told(model, writer, tmp_path):
    with pytest.raises(InputError, match=r"9 num_query_token in config\.json but 4 queries"):
        load(lavis.write(tmp_path, config_of(num_query_token=9), theirs_of(model, writer)))
