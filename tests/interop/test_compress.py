"""A compressed model of transformers against itself: what is left, where it stands, and that nothing else changed."""

import copy

import pytest
import torch

import foveal
from tests.interop import tiny

EXACT = {"atol": 1e-5, "rtol": 1e-5}
ROWS = [[0], [1, 2], []]
BUDGET = 7

every_family = pytest.mark.parametrize("kind", tiny.FAMILIES)


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


def told(model, given, new=4, **settings):
    """Tokens and logits of each step of generate()."""
    made = model.generate(
        **given, max_new_tokens=new, do_sample=False, return_dict_in_generate=True, output_logits=True, **settings
    )
    return made.sequences[:, given["input_ids"].shape[1] :], torch.stack(made.logits, dim=1), made.past_key_values


def hooks(model):
    """Everything that a compression could have left behind."""
    names = (
        "get_image_features",
        "pack_image_features",
        "prepare_inputs_for_generation",
        "_loss_function",
        "foveal",
        "restore",
    )
    left = [name for module in model.modules() for name in names if name in module.__dict__]
    kinds = ("_forward_pre_hooks", "_forward_hooks", "_forward_hooks_always_called", "_forward_pre_hooks_with_kwargs")
    return left + [kind for module in model.modules() for kind in kinds if getattr(module, kind)]


def test_what_it_returns_is_restored_by_itself_and_a_copy_by_itself():
    model = tiny.model("llava")
    given = tiny.prompt(model, [[0]])
    before, own = model(**given).logits, hooks(model)
    cut = foveal.compress(model, budget=BUDGET)
    twin, shorter = copy.deepcopy(cut), cut(**given).logits
    twin.restore()
    assert torch.equal(twin(**given).logits, before) and torch.equal(cut(**given).logits, shorter)
    first = cut.restore
    foveal.compress(cut, budget=BUDGET + 1)
    first()  # of what is no longer there
    assert cut(**given).logits.shape[1] == shorter.shape[1] + 1
    cut.restore()
    assert hooks(model) == own and torch.equal(model(**given).logits, before)


@pytest.mark.parametrize("outer_first", [True, False])
def test_of_two_on_one_model_the_later_counts(outer_first):
    model = tiny.model("llava")
    given = tiny.prompt(model, [[0], [1]])
    before, own = model(**given).logits, hooks(model)
    one, other = (model, model.model) if outer_first else (model.model, model)
    foveal.compress(one, budget=BUDGET + 2)
    foveal.compress(other, budget=BUDGET)
    hidden = model.model(**given).last_hidden_state if outer_first else model(**given).logits
    plain = tiny.model("llava")
    alone = foveal.compress(plain.model if outer_first else plain, budget=BUDGET)
    told = alone(**given).last_hidden_state if outer_first else alone(**given).logits
    assert torch.equal(hidden, told) and not hasattr(one, "restore")
    other.restore()
    assert hooks(model) == own and torch.equal(model(**given).logits, before)


@every_family
def test_a_budget_of_all_tokens_changes_nothing_and_restore_leaves_nothing(kind):
    model = tiny.model(kind)
    given = tiny.prompt(model, ROWS)
    before, words = model(**given).logits, told(model, given)
    own = hooks(model)  # transformers puts some there itself
    assert foveal.compress(model, budget=1000) is model
    assert torch.equal(model(**given).logits, before)
    assert model.foveal.last.before == model.foveal.last.after
    assert "a budget of 1000 for images of at most" in model.foveal.last.note
    new = told(model, given)
    assert torch.equal(new[0], words[0]) and torch.equal(new[1], words[1])
    foveal.compress(model, budget=BUDGET)
    assert model(**given).logits.shape[1] < before.shape[1]
    handle = model.foveal
    handle.restore()
    assert torch.equal(model(**given).logits, before)
    assert hooks(model) == own
    handle.restore()  # a second time is nothing


@every_family
@pytest.mark.parametrize("left", [True, False])
def test_a_selection_equals_the_whole_prompt_with_masked_keys(kind, left):
    model = tiny.model(kind, seed=1)
    given = tiny.prompt(model, ROWS, left=left, seed=1)
    if kind.startswith("qwen"):
        names = ("input_ids", "mm_token_type_ids", "image_grid_thw", "attention_mask")
        given["position_ids"] = model.model.get_rope_index(**{name: given[name] for name in names})[0]
    foveal.compress(model, budget=BUDGET, strategy="random")
    cut = model(**given)
    last = model.foveal.last
    assert last.after == tuple(min(BUDGET, count) for count in last.before)
    source, kept = last.source, last.source >= 0
    row = torch.arange(len(source))[:, None].expand_as(source)[kept]
    assert not (given["attention_mask"][row, source[kept]] == 0).any()
    seen = torch.zeros_like(given["attention_mask"]).index_put((row, source[kept]), torch.tensor(1))
    model.foveal.restore()
    whole = model(**{**given, "attention_mask": seen})
    torch.testing.assert_close(cut.logits[kept], whole.logits[row, source[kept]], **EXACT)
    kinds = given["input_ids"] == tiny.IMAGE
    assert int(seen.sum()) == int(given["attention_mask"].sum()) - int(kinds.sum()) + sum(last.after)


@every_family
@pytest.mark.parametrize("strategy", ["foveal", "divprune"])
def test_a_padded_batch_equals_its_rows(kind, strategy):
    model = foveal.compress(tiny.model(kind, seed=2), budget=BUDGET, strategy=strategy)
    words, logits, _ = told(model, tiny.prompt(model, ROWS, seed=3))
    counts = model.foveal.last.after
    alone = []
    for number, row in enumerate(ROWS):
        new, mine, _ = told(model, tiny.prompt(model, [row], seed=3 + number))
        assert torch.equal(new[0], words[number])
        torch.testing.assert_close(mine[0], logits[number], atol=5e-5, rtol=1e-5)
        alone += model.foveal.last.after if row else ()
    assert tuple(alone) == counts


@every_family
def test_the_cache_is_shorter_by_what_was_saved_and_goes_on(kind):
    model = tiny.model(kind, seed=3)
    given = tiny.prompt(model, [[0, 1]], seed=4)
    whole = told(model, given)[2].get_seq_length()
    for strategy in ("foveal", "random"):
        foveal.compress(model, budget=BUDGET, strategy=strategy)
        words, logits, cache = told(model, given)
        last = model.foveal.last
        assert whole - cache.get_seq_length() == sum(last.before) - sum(last.after) > 0
        again = told(model, given, use_cache=False)
        assert torch.equal(again[0], words)
        torch.testing.assert_close(again[1], logits, **EXACT)


BY_HAND = [(kind, False) for kind in tiny.FAMILIES]
BY_HAND += [(kind, True) for kind in tiny.FAMILIES if not kind.startswith("qwen")]  # those want positions with a mask


@pytest.mark.parametrize(("kind", "masked"), BY_HAND)
def test_decoding_by_hand_equals_reading_at_once(kind, masked):
    model = foveal.compress(tiny.model(kind, seed=4), budget=BUDGET, strategy="random")
    given = tiny.prompt(model, [[2]], seed=5)
    new, length = torch.tensor([[5, 6]]), given["input_ids"].shape[1]
    longer = {**given, "input_ids": torch.cat([given["input_ids"], new], dim=1)}
    longer["attention_mask"] = torch.ones_like(longer["input_ids"])
    if "mm_token_type_ids" in given:
        longer["mm_token_type_ids"] = (longer["input_ids"] == tiny.IMAGE).int()
    expected = model(**longer).logits[:, -2:]
    cache = model(**given, use_cache=True).past_key_values
    for step in range(2):
        mask = {"attention_mask": torch.ones(1, length + step + 1, dtype=torch.long)} if masked else {}
        made = model(input_ids=new[:, step : step + 1], past_key_values=cache, **mask)
        torch.testing.assert_close(made.logits[:, 0], expected[:, step], **EXACT)
