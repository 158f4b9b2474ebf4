"""What steers a compressed model, and what it refuses."""

import copy

import pytest
import torch

import foveal
from foveal.core.errors import InputError
from foveal.interop.compress import numbers
from tests.interop import tiny
from tests.interop.test_compress import BUDGET, EXACT, ROWS, told


def shares(model):
    """Where the last prompt was looked at, image by image."""
    return [each.shares for image in model.foveal.last.relevance for each in image if each is not None]


def labels_of(given, answer=4):
    labels = torch.full_like(given["input_ids"], -100)
    labels[:, -answer:] = given["input_ids"][:, -answer:]
    return labels


@pytest.mark.parametrize("kind", ["llava", "llava_next", "qwen3_vl", "idefics3"])
def test_training_reads_the_labels_of_what_is_left_and_no_answer_steers(kind):
    model = foveal.compress(tiny.model(kind).train(), budget=BUDGET)
    given = tiny.prompt(model, [[0], [1, 2]], left=False, seed=1)
    real = given["attention_mask"].bool()
    labels = labels_of(given).masked_fill(~real, -100)
    made = model(**given, labels=labels)
    source = model.foveal.last.source
    kept = labels.gather(1, source.clamp(min=0)).masked_fill(source < 0, -100)
    wanted = torch.nn.functional.cross_entropy(made.logits[:, :-1].flatten(0, 1).float(), kept[:, 1:].flatten())
    torch.testing.assert_close(made.loss, wanted, **EXACT)
    assert int((kept != -100).sum()) == int((labels != -100).sum())
    made.loss.backward()
    assert all(weight.grad is not None for name, weight in model.named_parameters() if "projector" in name)
    first, looked = source, shares(model)
    other = {**given, "input_ids": torch.where(labels != -100, 8, given["input_ids"])}
    model(**other, labels=labels)
    assert torch.equal(model.foveal.last.source, first)
    assert all(torch.equal(new, old) for new, old in zip(shares(model), looked, strict=True))
    words = {**given, "input_ids": given["input_ids"].clone()}
    words["input_ids"][0, 0] = words["input_ids"][0, 0] % 80 + 5
    model(**words, labels=labels)
    assert any(not torch.equal(new, old) for new, old in zip(shares(model), looked, strict=True))


@pytest.mark.parametrize("kind", ["llava", "llava_next", "idefics3"])
def test_training_goes_on_after_inference_mode_built_what_spends(kind):
    model = tiny.model(kind)
    given = tiny.prompt(model, [[0, 2]], seed=1)
    with torch.inference_mode():
        foveal.compress(model, budget=20)(**given)
    model(**given, labels=labels_of(given)).loss.backward()
    assert model.get_input_embeddings().weight.grad is not None


@torch.no_grad()
def test_an_empty_question_gives_the_query_free_cut():
    model = foveal.compress(tiny.model("llava"), budget=BUDGET, quiet=range(3, 99))
    given = tiny.prompt(model, [[0, 1]], seed=2)
    empty = model(**given).logits
    assert all((each.maps[2] == 0).all() for image in model.foveal.last.relevance for each in image)
    foveal.compress(model, budget=BUDGET, explore=1.0)
    torch.testing.assert_close(model(**given).logits, empty, **EXACT)
    foveal.compress(model, budget=BUDGET, explore=0.0)
    assert (model(**given).logits - empty).abs().max() > 1e-3


@torch.no_grad()
@pytest.mark.parametrize("kind", ["llava", "qwen3_vl", "internvl"])
def test_beams_copies_and_prompts_of_vectors(kind):
    model = tiny.model(kind, seed=5)
    given = tiny.prompt(model, [[0], [1, 2]], seed=6)
    plain = model.generate(**given, max_new_tokens=3, num_beams=2, do_sample=False)
    foveal.compress(model, budget=1000)
    assert torch.equal(model.generate(**given, max_new_tokens=3, num_beams=2, do_sample=False), plain)
    foveal.compress(model, budget=BUDGET)
    beams = model.generate(**given, max_new_tokens=3, num_beams=2, do_sample=False)
    uncached = model.generate(**given, max_new_tokens=3, num_beams=2, do_sample=False, use_cache=False)
    assert torch.equal(beams, uncached)
    twin = copy.deepcopy(model)
    expected = model(**given).logits
    assert torch.equal(twin(**given).logits, expected)
    twin.foveal.restore()
    assert twin(**given).logits.shape[1] > expected.shape[1]
    assert torch.equal(model(**given).logits, expected)
    if kind == "qwen3_vl":  # counts its positions by ids
        return
    foveal.compress(model, budget=BUDGET, strategy="random")
    expected = model(**given).logits
    ids = given.pop("input_ids")
    torch.testing.assert_close(model(**given, inputs_embeds=model.get_input_embeddings()(ids)).logits, expected)


@torch.no_grad()
def test_a_second_question_goes_on_in_the_cache():
    model = foveal.compress(tiny.model("llava", seed=7), budget=BUDGET, strategy="random")
    given = tiny.prompt(model, [[0]], seed=7)
    more = tiny.prompt(model, [[1]], seed=8)
    cache = model(**given, use_cache=True).past_key_values
    ids = torch.cat([given["input_ids"], more["input_ids"]], dim=1)
    new = model(
        input_ids=more["input_ids"],
        attention_mask=torch.ones_like(ids),
        pixel_values=more["pixel_values"],
        past_key_values=cache,
    )
    pixels = torch.cat([given["pixel_values"], more["pixel_values"]])
    whole = model(input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values=pixels)
    torch.testing.assert_close(new.logits, whole.logits[:, -new.logits.shape[1] :], **EXACT)
    assert cache.get_seq_length() == whole.logits.shape[1]


@torch.no_grad()
def test_half_precision_and_eager_attention():
    for kind in ("llava", "qwen3_vl"):
        model = foveal.compress(tiny.model(kind), budget=BUDGET)
        given = tiny.prompt(model, ROWS)
        fused = told(model, given)
        model.set_attn_implementation("eager")
        eager = told(model, given)
        assert torch.equal(eager[0], fused[0])
        torch.testing.assert_close(eager[1], fused[1], atol=5e-5, rtol=1e-5)
        model.to(torch.bfloat16)
        given["pixel_values"] = given["pixel_values"].to(torch.bfloat16)
        assert torch.isfinite(told(model, given)[1]).all()


@torch.no_grad()
def test_what_cannot_be_is_told_in_one_line():
    model = foveal.compress(tiny.model("llava"), budget=BUDGET)
    given = tiny.prompt(model, [[0]])
    with pytest.raises(InputError, match="static caches bring such"):
        model.generate(**given, max_new_tokens=3, do_sample=False, cache_implementation="static")
    with pytest.raises(InputError, match="logits_to_keep names places"):
        model(**given, logits_to_keep=torch.tensor([3]))
    with pytest.raises(InputError, match=r"hold .* values that are no numbers"):
        model(**{**given, "pixel_values": given["pixel_values"] * torch.nan})
    cache = model(**given, use_cache=True).past_key_values
    with pytest.raises(InputError, match=r"a mask of \d+ tokens for \d+ read before and 2 new ones"):
        mask = torch.ones(1, given["input_ids"].shape[1] + 1, dtype=torch.long)
        model(input_ids=torch.tensor([[5, 6]]), attention_mask=mask, past_key_values=cache)
    with pytest.raises(InputError, match=r"'bert' is not known here; foveal\.compress takes llava, "):
        from transformers import BertConfig, BertModel

        small = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
        foveal.compress(BertModel(BertConfig(**small)), budget=4)
    with pytest.raises(InputError, match="did you mean 'foveal'"):
        foveal.compress(model, budget=4, strategy="fovea")
    assert model(**given).logits.shape[1] < given["input_ids"].shape[1]  # the old one still stands
    film = tiny.model("qwen3_vl")
    with pytest.raises(InputError, match="cuts pictures, and there are videos here"):
        foveal.compress(film, budget=4)(**tiny.prompt(film, [[0]]), pixel_values_videos=torch.zeros(4, 96))


@torch.no_grad()
def test_quiet_words_are_quiet_as_vectors_too():
    model = foveal.compress(tiny.model("llava"), budget=BUDGET, quiet=[*range(3, 99), 1000], explore=0.0)
    given = tiny.prompt(model, [[0], [1]], seed=2)
    expected, looked = model(**given).logits, shares(model)
    vectors = model.get_input_embeddings()(given.pop("input_ids"))
    assert torch.equal(model(**given, inputs_embeds=vectors).logits, expected)
    assert all(torch.equal(new, old) for new, old in zip(shares(model), looked, strict=True))
    vectors[:, -1] += 1e-3  # a word of nobody's
    model(**given, inputs_embeds=vectors)
    assert not all(torch.equal(new, old) for new, old in zip(shares(model), looked, strict=True))


@pytest.mark.parametrize("quiet", [["<image>"], "<image>", None, 5, [1.5], [2**70]], ids=repr)
def test_tokens_by_other_than_their_numbers_are_told(quiet):
    with pytest.raises(InputError, match=r"^quiet=.* names no tokens; give their numbers"):
        numbers(quiet)


@pytest.mark.parametrize("quiet", [[3, 4], {"a": 3, "b": 4}.values(), torch.tensor([3, 4])], ids=str)
def test_tokens_by_their_numbers(quiet):
    assert numbers(quiet) == {3, 4}
    assert foveal.compress(tiny.model("llava"), budget=4, quiet=numbers(quiet)).foveal.quiet >= {3, 4}


def test_a_seed_beyond_64_bits_is_told_at_once():
    for seed in (2**64, -(2**63) - 1):
        with pytest.raises(InputError, match=rf"a seed of {seed} is beyond 64 bits; give one from 0"):
            foveal.compress(tiny.model("llava"), budget=4, strategy="random", seed=seed)
    model = foveal.compress(tiny.model("llava"), budget=4, strategy="random", seed=2**64 - 1)
    assert torch.isfinite(model(**tiny.prompt(model, [[0]])).logits).all()


def test_a_head_that_writes_no_words_is_told_by_its_kind():
    inner = tiny.model("qwen2_vl").config
    model = tiny.hf.ColQwen2ForRetrieval(tiny.hf.ColQwen2Config(vlm_config=inner, loss_type="ForCausalLM"))
    with pytest.raises(InputError, match=r"'colqwen2' is not known here; foveal\.compress takes llava, "):
        foveal.compress(model, budget=4)
