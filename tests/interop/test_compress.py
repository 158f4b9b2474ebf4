"""A compressed model of transformers against itself: what is left, where it stands, and that nothing else changed."""

import copy
import pickle
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

import foveal
from foveal.core.errors import InputError
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
    names = ("get_image_features", "pack_image_features", "prepare_inputs_for_generation", "_loss_function", "foveal")
    names += ("restore", "generate", "_prefill", "_prepare_position_ids_for_generation", "_get_candidate_generator")
    left = [name for module in model.modules() for name in names if name in module.__dict__]
    kinds = ("_forward_pre_hooks", "_forward_hooks", "_forward_hooks_always_called", "_forward_pre_hooks_with_kwargs")
    return left + [kind for module in model.modules() for kind in kinds if getattr(module, kind)]


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
    foveal.compress(model, budget=BUDGET).restore()
    assert torch.equal(model(**given).logits, before)
    assert hooks(model) == own


@every_family
@pytest.mark.parametrize("left", [True, False])
@pytest.mark.parametrize("strategy", [{"strategy": "random"}, {"strategy": "foveal", "realize": "medoid"}], ids=str)
def test_a_selection_equals_the_whole_prompt_with_masked_keys(kind, left, strategy):
    model = tiny.model(kind, seed=1)
    given = tiny.prompt(model, ROWS, left=left, seed=1)
    if kind.startswith("qwen"):
        names = ("input_ids", "mm_token_type_ids", "image_grid_thw", "attention_mask")
        given["position_ids"] = model.model.get_rope_index(**{name: given[name] for name in names})[0]
    foveal.compress(model, budget=BUDGET, **strategy)
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


@pytest.mark.parametrize("kind", ["llava", "qwen3_vl", "idefics3"])
def test_one_budget_at_a_time_around_and_within(kind):
    model = tiny.model(kind)
    given = tiny.prompt(model, [[0]])
    before = model(**given).logits
    own = hooks(model)  # transformers puts some there when it first runs
    shell = torch.nn.Sequential(model)
    for first, second in ((model.model, model), (model, model.model), (shell, model), (model, shell)):
        foveal.compress(first, budget=4)
        foveal.compress(second, budget=6)
        saved = before.shape[1] - model(**given).logits.shape[1]
        assert not hasattr(first, "foveal") and not hasattr(first, "restore")
        assert second.foveal.last.after == (6,) and saved == sum(second.foveal.last.before) - 6
        second.restore()
        assert hooks(model) == own and not hasattr(second, "foveal")
        assert torch.equal(model(**given).logits, before)


def test_the_way_back_goes_with_copies_and_is_not_saved():
    model = tiny.model("llava")
    given, names = tiny.prompt(model, [[0]]), list(model.state_dict())
    foveal.compress(model, budget=BUDGET)
    assert list(model.state_dict()) == names
    twins = (copy.deepcopy(model), pickle.loads(pickle.dumps(model)))  # what has run, transformers cannot pickle
    before = tiny.model("llava")(**given).logits
    for twin in twins:
        assert torch.equal(twin(**given).logits, model(**given).logits)
        twin.restore()
        assert torch.equal(twin(**given).logits, before)
    assert model(**given).logits.shape[1] < before.shape[1]
    model.restore()
    model.restore = kept = lambda: "its own"
    foveal.compress(model, budget=BUDGET).foveal.restore()
    assert model.restore is kept and torch.equal(model(**given).logits, before)


def test_what_was_replaced_undoes_nothing_of_what_stands():
    model = tiny.model("llava")
    given = tiny.prompt(model, [[0]])
    before, own = model(**given).logits, hooks(model)
    first = foveal.compress(model, budget=BUDGET).restore
    shorter = foveal.compress(model, budget=BUDGET + 1)(**given).logits.shape[1]
    first()
    assert model(**given).logits.shape[1] == shorter < before.shape[1]
    model.restore()
    assert hooks(model) == own and torch.equal(model(**given).logits, before)


def test_what_was_compiled_is_traced_anew_for_it_does_not_look_for_hooks():
    model, graphs = tiny.model("llava"), []
    run = torch.compile(lambda given: given + 1, backend=lambda graph, given: graphs.append(graph) or graph.forward)
    for change in (lambda: None, lambda: foveal.compress(model, budget=BUDGET), lambda: model.restore()):
        before = len(graphs)
        change()
        assert run(torch.zeros(2)).tolist() == run(torch.zeros(2)).tolist() == [1, 1]
        assert len(graphs) == before + 1


COMPILED = """
import foveal, torch
from tests.interop import tiny
model = foveal.compress(tiny.model("llava"), budget=9)
given = tiny.prompt(model, [[0]])
wanted = model(**given, labels=given["input_ids"]).loss
run = torch.compile(model, backend="eager")
with torch.no_grad():
    run(**given)
for one in (run, model):
    torch.testing.assert_close(one(**given, labels=given["input_ids"]).loss, wanted)
model.restore()
assert model(**given, labels=given["input_ids"]).loss.isfinite()
"""


def test_it_learns_after_it_was_compiled_and_when_it_is_restored():
    """In a process of its own: what checks types here cannot be compiled."""
    subprocess.run([sys.executable, "-W", "ignore", "-c", COMPILED], check=True, cwd=Path(__file__).parents[2])


def test_what_was_set_since_stays_and_is_used():
    model, heard = tiny.model("llava"), []
    given = tiny.prompt(model, [[0]])
    own, loss = model.loss_function, foveal.compress(model, budget=BUDGET)(**given, labels=given["input_ids"]).loss

    def mine(*arguments, **named):
        heard.append("loss")
        return own(*arguments, **named)

    model.loss_function, found = mine, model.model.get_image_features
    model.model.get_image_features = wrapper = lambda *given, **named: heard.append("image") or found(*given, **named)
    assert torch.equal(model(**given, labels=given["input_ids"]).loss, loss)
    model.restore()
    assert model.loss_function is mine and model.model.get_image_features is wrapper
    model(**given, labels=given["input_ids"])
    assert heard == ["image", "loss"] * 2
    model.restore = foveal.compress(model, budget=BUDGET).restore
    model.loss_function = other = lambda *arguments, **named: own(*arguments, **named)
    model.restore()
    assert model.loss_function is other


def test_several_models_in_one_are_named():
    both = torch.nn.ModuleDict({"a": tiny.model("llava"), "b": tiny.model("qwen2_vl")})
    with pytest.raises(
        InputError, match=r"2 models that could be compressed, 'a\.model' and 'b\.model'; compress each"
    ):
        foveal.compress(both, budget=BUDGET)


@pytest.mark.parametrize("hears", [7, 32])
def test_what_is_learned_by_training_is_refused_at_the_call(hears):
    model = tiny.model("llava")
    with pytest.raises(
        InputError, match=f"'foveal' with hears={hears} hears what it has been taught, .* leave hears out"
    ):
        foveal.compress(model, budget=9, hears=hears)
    assert not hasattr(model, "foveal") and foveal.compress(model, budget=9, hears=0) is model


def test_an_export_is_refused():
    model = foveal.compress(tiny.model("llava"), budget=BUDGET)
    with pytest.raises(InputError, match=r"torch\.export of a compressed model, whose cut depends on what it reads"):
        torch.export.export(model, (), tiny.prompt(model, [[0]]), strict=False)


TEXTS = {
    "every layer": lambda window: tiny.hf.MistralConfig(**tiny.TEXT, head_dim=8, sliding_window=window),
    "every other": lambda window: tiny.hf.Gemma2Config(**tiny.TEXT, head_dim=8, sliding_window=window),
}


def slides(text):
    vision = tiny.hf.CLIPVisionConfig(**tiny.SMALL, image_size=24, patch_size=4)
    torch.manual_seed(0)
    config = tiny.hf.LlavaConfig(vision_config=vision, text_config=text, image_token_id=tiny.IMAGE)
    model = tiny.hf.LlavaForConditionalGeneration(config).eval()
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = None, 0
    return model


@pytest.mark.parametrize("text", TEXTS)
def test_windows_that_a_prompt_is_within_and_ones_that_would_look_too_far(text):
    model = slides(TEXTS[text](47))
    given = tiny.prompt(model, [[0]])
    foveal.compress(model, budget=BUDGET, strategy="random")
    cut, source = model(**given).logits[0], model.foveal.last.source[0]
    words, _, cache = told(model, given)  # these go on past the window
    more = torch.cat([given["input_ids"], words, words], dim=1)
    with pytest.raises(InputError, match="55 tokens, and layers that look back over 47"):
        told(model, {"input_ids": more}, past_key_values=cache)
    model.restore()
    seen = torch.zeros_like(given["attention_mask"])
    seen[0, source] = 1
    whole = model(**{**given, "attention_mask": seen}, position_ids=torch.arange(47)[None]).logits[0, source]
    torch.testing.assert_close(cut, whole, **EXACT)
    model = slides(TEXTS[text](46))
    before = model(**given).logits
    foveal.compress(model, budget=BUDGET)
    with pytest.raises(InputError, match=r"47 tokens, and layers that look back over 46: .* give a shorter prompt"):
        model(**given)
    assert torch.equal(foveal.compress(model, budget=36)(**given).logits, before)


def test_each_thread_is_told_what_it_read():
    model = foveal.compress(tiny.model("llava"), budget=BUDGET)
    told = {}

    def ask(rows, turn):
        with torch.no_grad():
            model(**tiny.prompt(model, rows))
        turn.wait()
        told[len(rows)] = len(model.foveal.last.before)

    for several in ([[[0]], [[1], [2, 0]]], [[[1], [2], [0, 0]]]):
        turn = threading.Barrier(len(several), timeout=60)
        threads = [threading.Thread(target=ask, args=(rows, turn)) for rows in several]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert told == {1: 1, 2: 3, 3: 4}
    assert len(model.foveal.last.before) == 4  # who read nothing: the latest
