"""Later turns of a conversation: generate() goes on from the cache of a compressed model as if it had none."""

import copy
import gc
import pickle
import weakref

import pytest
import torch
from transformers import DynamicCache

import foveal
from foveal.core.errors import InputError
from tests.interop import tiny
from tests.interop.test_compress import BUDGET, EXACT, told

every_family = pytest.mark.parametrize("kind", tiny.FAMILIES)
ALONG = ("input_ids", "attention_mask", "mm_token_type_ids")  # longer with each turn


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


def small(kind, seed=0, budget=BUDGET, strategy="random"):
    model = tiny.model(kind, seed=seed)
    model.generation_config.suppress_tokens = [tiny.IMAGE, tiny.VIDEO, tiny.START, tiny.END]
    return foveal.compress(model, budget=budget, strategy=strategy)


def later(given, answer, words):
    """The prompt with an answer and what is said next."""
    ids = torch.cat([given["input_ids"], answer, words], dim=1)
    whole = {**given, "input_ids": ids, "attention_mask": torch.ones_like(ids)}
    whole["attention_mask"][:, : given["attention_mask"].shape[1]] = given["attention_mask"]
    if "mm_token_type_ids" in given:
        whole["mm_token_type_ids"] = (ids == tiny.IMAGE).int()
    return whole


def read_by(model):
    """How many tokens each pass is given, from now on."""
    counts = []
    model.register_forward_pre_hook(
        lambda module, given, named: counts.append(named["input_ids"].shape[1]), with_kwargs=True
    )
    return counts


@every_family
@pytest.mark.parametrize("rows", [[[0]], [[0], [1, 2], []]])
def test_a_later_turn_equals_the_conversation_without_a_cache(kind, rows):
    model = small(kind)
    given = tiny.prompt(model, rows, seed=1)
    answer, _, cache = told(model, given)
    for words in ([[5, 6, 7]], [[8, 9]]):
        whole = later(given, answer, torch.tensor(words).expand(len(rows), -1))
        text = {name: whole[name] for name in ALONG if name in whole}
        counts = read_by(model)
        new, logits, cache = told(model, text, past_key_values=cache)
        assert counts[0] == len(words[0]) + 1  # the last token of an answer was never read
        expected, wanted, _ = told(model, whole)
        assert torch.equal(new, expected)
        torch.testing.assert_close(logits, wanted, atol=5e-5, rtol=1e-5)
        answer = torch.cat([whole["input_ids"][:, given["input_ids"].shape[1] :], new], dim=1)


@every_family
def test_a_later_turn_by_its_new_tokens_alone(kind):
    model = small(kind)
    given = tiny.prompt(model, [[1]], seed=1)
    answer, _, cache = told(model, given)
    whole = later(given, answer, torch.tensor([[5, 6, 7]]))
    ids = whole["input_ids"][:, -4:]
    new, _, _ = told(model, {"input_ids": ids, "attention_mask": whole["attention_mask"]}, past_key_values=cache)
    assert torch.equal(new, told(model, whole)[0])
    for words in (ids, whole["input_ids"][:, :-4]):  # no mask tells of more; nothing is new
        with pytest.raises(InputError, match="give the whole conversation, what was read and what is new"):
            model.generate(input_ids=words, past_key_values=told(model, given)[2], max_new_tokens=2)


@every_family
def test_a_picture_in_a_later_turn(kind):
    model = small(kind)
    given, more = tiny.prompt(model, [[0]], seed=1), tiny.prompt(model, [[1]], seed=5)
    answer, _, cache = told(model, given)
    whole = later(given, answer, more["input_ids"])
    mine = {**more, **{name: whole[name] for name in ALONG if name in whole}}
    if kind.startswith("qwen"):
        with pytest.raises(InputError, match=r"an image behind \d+ tokens .* give the conversation anew"):
            told(model, mine, past_key_values=cache)
        return
    new, logits, _ = told(model, mine, past_key_values=cache)
    assert len(model.foveal.last.before) == 1  # the first picture is not read again
    for name in ("pixel_values", "image_sizes"):
        if name in whole:
            tiles = name == "pixel_values" and kind in ("idefics3", "smolvlm")
            whole[name] = torch.cat([given[name], more[name]], dim=int(tiles))
    expected, wanted, _ = told(model, whole)
    assert torch.equal(new, expected)
    torch.testing.assert_close(logits, wanted, atol=5e-5, rtol=1e-5)


@every_family
def test_drafts_by_lookup_or_an_assistant_change_nothing(kind):
    model = small(kind, budget=5, strategy="foveal")
    helper, saved = small(kind, seed=1, budget=3), 0
    for seed in range(4):
        given = tiny.prompt(model, [[0]], seed=seed)
        for name in ALONG:  # words that come again, for the lookup to find
            if name in given:
                given[name] = torch.cat([given[name], given[name][:, -4:], given[name][:, -4:]], dim=1)
        expected, logits, _ = told(model, given, new=10)
        saved += sum(model.foveal.last.before) - sum(model.foveal.last.after)
        for draft in ({"prompt_lookup_num_tokens": 3}, {"assistant_model": helper}):
            words, mine, _ = told(model, given, new=10, **draft)
            assert torch.equal(words, expected)
            torch.testing.assert_close(mine, logits, atol=5e-5, rtol=1e-5)
    assert saved > 0
    text = {"input_ids": given["input_ids"][:, -2:], "attention_mask": given["attention_mask"]}
    with pytest.raises(InputError, match="behind a cache would have all of it read again"):
        told(model, text, past_key_values=told(model, given)[2], prompt_lookup_num_tokens=3)


def test_a_cache_is_cropped_behind_what_was_cut():
    model = small("llava")
    given = tiny.prompt(model, [[0]], seed=1)
    cache = model(**given, use_cache=True).past_key_values
    cache.crop(-2)
    made = model(input_ids=given["input_ids"][:, -2:], past_key_values=cache)
    torch.testing.assert_close(made.logits, model(**given).logits[:, -2:], **EXACT)
    assert cache.get_seq_length() == model(**given, use_cache=True).past_key_values.get_seq_length()
    cache.crop(-cache.get_seq_length() + 4)
    with pytest.raises(InputError, match=r"a cache cropped to 4 keys of .* crop no more than these"):
        model(input_ids=given["input_ids"][:, -2:], past_key_values=cache)


MOVES = {"reorder_cache": [1, 0], "batch_select_indices": [1], "batch_repeat_interleave": [0, 0, 1, 1]}


@pytest.mark.parametrize("kind", ["llava", "idefics3", "internvl"])
@pytest.mark.parametrize("move", MOVES)
@pytest.mark.parametrize("twin", [copy.deepcopy, lambda cache: pickle.loads(pickle.dumps(cache))], ids=["copy", "dump"])
def test_rows_of_a_cache_that_are_moved_go_on_as_they_would_have(kind, move, twin):
    model, order = small(kind, budget=5), MOVES[move]
    given = tiny.prompt(model, [[0, 1], []])  # padded, so that the rows hold other columns
    answer, _, cache = told(model, given)
    whole = later(given, answer, torch.tensor([[5, 6, 7]] * 2))
    text = {name: whole[name] for name in ALONG[:2]}
    words, logits, _ = told(model, text, past_key_values=twin(cache))
    moved = twin(cache)
    getattr(moved, move)(2 if move == "batch_repeat_interleave" else torch.tensor(order))
    moved.crop(-1)
    new, mine, _ = told(model, {name: part[order] for name, part in text.items()}, past_key_values=twin(moved))
    assert torch.equal(new, words[order])
    torch.testing.assert_close(mine, logits[order], atol=5e-5, rtol=1e-5)
    assert torch.equal(told(model, text, past_key_values=cache)[0], words)  # what it was copied from stands


@pytest.mark.parametrize("twin", [lambda cache: cache, copy.deepcopy], ids=["itself", "copy"])
def test_a_cache_goes_when_its_user_lets_go(twin):
    model = small("llava", budget=5)
    cache = twin(told(model, tiny.prompt(model, [[0]]))[2])
    held, kind = weakref.ref(cache), type(cache).__mro__[2]
    assert isinstance(cache, DynamicCache) and type(cache).__name__ == kind.__name__
    gc.disable()
    try:
        del cache
        assert held() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("kind", ["llava", "qwen3_vl", "idefics3"])
@pytest.mark.parametrize("twin", [copy.deepcopy, lambda cache: pickle.loads(pickle.dumps(cache))], ids=["copy", "dump"])
def test_a_model_that_is_not_compressed_takes_no_cut_cache(kind, twin):
    model = small(kind)
    given = tiny.prompt(model, [[0]], seed=1)
    answer, _, cache = told(model, given)
    whole = later(given, answer, torch.tensor([[5, 6, 7]]))
    text = {name: whole[name] for name in ALONG if name in whole}
    expected = told(model, text, past_key_values=twin(cache))[0]
    model.restore()
    for reader in (model, tiny.model(kind, seed=1)):
        with pytest.raises(InputError, match=r"that foveal\.compress cut, .* without past_key_values"):
            told(reader, text, past_key_values=twin(cache))
    again = twin(cache)
    again.reset()
    plain = told(model, given)[0]
    assert torch.equal(told(model, given, past_key_values=again)[0], plain) and type(again) is DynamicCache
    foveal.compress(model, budget=BUDGET, strategy="random")
    assert torch.equal(told(model, text, past_key_values=cache)[0], expected)


def test_a_pass_that_fails_leaves_a_cut_cache_shut():
    model = small("llava")
    given = tiny.prompt(model, [[0]], seed=1)
    answer, _, cache = told(model, given)
    hook = model.model.language_model.norm.register_forward_pre_hook(lambda *given: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        model(input_ids=answer[:, :1], past_key_values=copy.deepcopy(cache), use_cache=True)
    with pytest.raises(ZeroDivisionError):
        model(input_ids=answer[:, :1], past_key_values=cache, use_cache=True)
    hook.remove()
    model.restore()
    with pytest.raises(InputError, match="a model that is not compressed"):
        model(input_ids=answer[:, :1], past_key_values=cache)


@pytest.mark.parametrize("kind", ["llava", "qwen3_vl"])
def test_generate_within_generate_and_passes_prepared_but_not_made(kind):
    model = small(kind, seed=3, strategy="foveal")
    given, other = tiny.prompt(model, [[0], [1, 2], []], seed=4), tiny.prompt(model, [[1]], seed=9)

    def nested(ids, scores):
        model.generate(**other, max_new_tokens=2, do_sample=False)
        return scores

    expected = told(model, given, use_cache=False)
    within = told(model, given, use_cache=False, logits_processor=[nested])
    assert torch.equal(within[0], expected[0]) and torch.equal(within[1], expected[1])
    logits = model(**given).logits
    model.prepare_inputs_for_generation(given["input_ids"][:, :3], is_first_iteration=True)
    assert torch.equal(model(**given).logits, logits)


def test_an_emptied_cache_is_what_it_was():
    model = small("llava", budget=5)
    given = tiny.prompt(model, [[0]])
    cache = told(model, given)[2]
    cache.reset()
    foveal.compress(model, budget=10**6)
    told(model, given, past_key_values=cache)
    assert type(cache) is DynamicCache


def test_beams_go_on_from_a_cache_whose_rows_are_repeated_and_others_are_counted():
    model = small("llava", budget=5)
    given = tiny.prompt(model, [[0, 1], []])
    answer, _, cache = told(model, given)
    whole = later(given, answer, torch.tensor([[5, 6, 7]] * 2))
    text = {name: whole[name] for name in ALONG[:2]}
    with pytest.raises(InputError, match=r"a cache of 2 rows for 4 to read; repeat its rows by"):
        told(model, text, past_key_values=copy.deepcopy(cache), num_beams=2)
    cache.batch_repeat_interleave(2)
    assert torch.equal(told(model, text, past_key_values=cache, num_beams=2)[0], told(model, whole, num_beams=2)[0])
    cache.reset()
    assert torch.equal(told(model, given, past_key_values=cache)[0], answer)
    cache.reorder_cache(torch.tensor([1, 0]))


@pytest.mark.parametrize("kind", ["llava", "qwen3_vl", "idefics3", "internvl"])
def test_a_prefill_in_chunks_is_named(kind):
    model = small(kind)
    given = tiny.prompt(model, [[0]], seed=1)
    for chunk in (4, 8, 16):
        with pytest.raises(InputError, match=rf"chunked prefill \(prefill_chunk_size={chunk}\)"):
            told(model, given, prefill_chunk_size=chunk)
    answer, _, cache = told(model, given)
    whole = later(given, answer, torch.tensor([[5, 6, 7]]))
    text = {name: whole[name] for name in ALONG if name in whole}
    with pytest.raises(InputError, match=r"chunked prefill \(prefill_chunk_size=2\)"):
        told(model, text, past_key_values=cache, prefill_chunk_size=2)
    words = {name: given[name][:, -6:] for name in ALONG if name in given}  # no image
    assert torch.equal(told(model, words, prefill_chunk_size=2)[0], told(model, words)[0])
