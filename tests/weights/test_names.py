"""Renaming goes both ways without loss, and strict loading names every fault."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from foveal.core.errors import InputError
from foveal.weights.names import Renaming, apart, load_strict, prefixed, whole

RULES = [
    ("blocks.*.norm.*", ("layers.*.ln.*", "model.layers.*.ln.*")),
    (("blocks.*.query", "blocks.*.key", "blocks.*.value"), "layers.*.qkv"),
    (None, "**.position_ids"),
    ("head.**", "lm_head.**"),
]


@given(
    st.dictionaries(st.integers(0, 30), st.sampled_from(["weight", "bias"]), max_size=4),
    st.integers(1, 3),
    st.sampled_from(["", "model."]),
)
def test_renaming_is_undone(norms, rows, prefix):
    theirs = {f"{prefix}layers.{i}.ln.{part}": torch.randn(3) for i, part in norms.items()}
    theirs |= {f"layers.{i}.qkv": torch.randn(3 * rows, 2) for i in norms}
    theirs |= {"lm_head.deep.er.weight": torch.randn(2)}
    renaming = Renaming(RULES)
    ours = renaming.to_ours({**theirs, "embeddings.position_ids": torch.arange(3)})
    back = renaming.to_theirs(ours)
    canonical = {name.removeprefix("model."): weight for name, weight in theirs.items()}
    assert back.keys() == canonical.keys()
    assert all(torch.equal(back[name], canonical[name]) for name in back)
    assert all(torch.equal(a, b) for a, b in zip(renaming.to_ours(back).values(), ours.values(), strict=True))


def test_the_parts_of_a_stack_keep_their_order():
    ours = Renaming(RULES).to_ours({"layers.7.qkv": torch.arange(6.0)})
    assert {name: part.tolist() for name, part in ours.items()} == {
        "blocks.7.query": [0.0, 1.0],
        "blocks.7.key": [2.0, 3.0],
        "blocks.7.value": [4.0, 5.0],
    }


@pytest.mark.parametrize(
    ("state", "told"),
    [
        ({"layers.0.ln.weight": 3, "strange": 3}, "no rule for strange"),
        ({"layers.0.ln.weight": 3, "model.layers.0.ln.weight": 3}, "two spellings"),
        ({"layers.0.qkv": 4}, r"layers.0.qkv \[4\] is 3 weights stacked"),
    ],
)
def test_what_cannot_be_read_is_named(state, told):
    with pytest.raises(InputError, match=told):
        Renaming(RULES).to_ours({name: torch.zeros(size) for name, size in state.items()})


def test_what_cannot_be_written_is_named():
    with pytest.raises(InputError, match="no rule for vision"):
        Renaming(RULES).to_theirs({"vision": torch.zeros(1)})
    with pytest.raises(InputError, match=r"layers\.0\.qkv is .* blocks\.0\.key is not there"):
        Renaming(RULES).to_theirs({"blocks.0.query": torch.zeros(1), "blocks.0.value": torch.zeros(1)})


def test_rules_with_different_wildcards_are_refused():
    with pytest.raises(ValueError, match="different wildcards"):
        Renaming([("a.*", "b.**")])


def test_a_prefix_comes_before_every_pattern():
    renaming = Renaming(prefixed(RULES, ours="vision.", theirs=("model.tower.", "tower.")))
    ours = renaming.to_ours({"tower.layers.0.qkv": torch.arange(3.0), "tower.x.position_ids": torch.zeros(1)})
    assert list(ours) == ["vision.blocks.0.query", "vision.blocks.0.key", "vision.blocks.0.value"]
    assert list(renaming.to_theirs(ours)) == ["model.tower.layers.0.qkv"]


class Tied(nn.Module):
    """A table, a head that may share it, a frozen scale and a buffer outside the state dict."""

    def __init__(self, *, tied: bool = True) -> None:
        super().__init__()
        self.table = nn.Embedding(5, 3)
        self.head = nn.Linear(3, 5, bias=False)
        self.norm = nn.BatchNorm1d(3)
        self.register_buffer("places", torch.arange(4, device="cpu"), persistent=False)
        if tied:
            self.head.weight = self.table.weight
        self.norm.weight.requires_grad_(False)


def full(**changed):
    state = {name: weight.clone() for name, weight in Tied().state_dict().items()}
    return {name: weight for name, weight in {**state, **changed}.items() if weight is not None}


def test_loading_onto_meta_keeps_ties_dtype_and_what_is_frozen():
    with torch.device("meta"):
        module = Tied()
    state = full(**{"head.weight": None})
    load_strict(module, state, "here", dtype=torch.bfloat16, device="cpu")
    assert module.head.weight is module.table.weight
    assert module.table.weight.dtype == torch.bfloat16 and module.norm.num_batches_tracked.dtype == torch.int64
    assert torch.equal(module.table.weight, state["table.weight"].bfloat16())
    assert not module.norm.weight.requires_grad and module.table.weight.requires_grad
    assert module.places.tolist() == [0, 1, 2, 3]


def test_every_fault_is_named_at_once_in_their_spelling():
    renaming = Renaming([("table.*", "embed.*"), ("norm.*", "bn.*"), ("head.*", "lm_head.*")])
    given = {"embed.weight": torch.zeros(5, 4), "bn.weight": torch.zeros(3), "extra": torch.zeros(1)}
    with pytest.raises(InputError) as told:
        load_strict(Tied(tied=False), given, "a/model.safetensors", renaming=renaming)
    for part in ("a/model.safetensors", "lm_head.weight", "bn.bias", "extra", "embed.weight [5 4] where [5 3] belongs"):
        assert part in str(told.value)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("prefix", ["model.", "language_model.model.", ""])
def test_a_fault_is_named_as_the_file_spells_it(prefix):
    rules = prefixed(
        [("*.a.*", "*.up.*"), ("*.b.*", ("*.down.*", "*.c_proj.*"))], theirs=("model.", "language_model.model.", "")
    )
    renaming = Renaming([*rules, ("head.*", ("lm_head.*", "language_model.lm_head.*"))])
    module = nn.ModuleDict({"0": nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2)}), "head": nn.Linear(2, 2)})
    state = {f"{prefix}0.up.weight": torch.zeros(2, 3), f"{prefix}0.up.bias": torch.zeros(2, dtype=torch.int64)}
    state |= {f"{prefix}0.c_proj.weight": torch.zeros(2, 2), f"{prefix}7.up.bias": torch.zeros(2)}
    with pytest.raises(InputError) as told:
        load_strict(module, state, "here", renaming=renaming)
    head = "language_model.lm_head" if prefix.startswith("language") else "lm_head"
    for part in (
        f"missing: {prefix}0.c_proj.bias, {head}.weight, {head}.bias;",
        f"unexpected: {prefix}7.up.bias;",
        f"mis-shaped: {prefix}0.up.weight [2 3] where [2 2] belongs;",
        f"of whole numbers: {prefix}0.up.bias of int64;",
    ):
        assert part in str(told.value)


def test_a_stack_that_is_missing_is_named_once():
    with pytest.raises(InputError, match=r"missing: qkv\.weight, qkv\.bias; give"):
        module = nn.ModuleDict({"q": nn.Linear(2, 2), "k": nn.Linear(2, 2)})
        load_strict(module, {}, "here", renaming=Renaming([(("q.*", "k.*"), "qkv.*")]))


def test_tied_weights_that_differ_are_refused():
    with pytest.raises(InputError, match=r"table\.weight and head\.weight"):
        load_strict(Tied(), full(**{"head.weight": torch.ones(5, 3)}), "here")


def test_a_long_list_of_faults_is_cut_with_a_count():
    with pytest.raises(InputError, match="and 4 more"):
        load_strict(
            nn.Linear(2, 2), {**nn.Linear(2, 2).state_dict(), **{f"x{i}": torch.zeros(1) for i in range(12)}}, "x"
        )


def test_a_derived_buffer_left_on_meta_is_our_fault():
    module = nn.Module()
    module.register_buffer("empty", torch.zeros(2, device="meta"), persistent=False)
    with pytest.raises(ValueError, match='device="cpu"'):
        load_strict(module, {}, "here")


def test_a_weight_and_its_length_are_one_weight():
    state = {"a.weight_v": torch.tensor([[3.0, 0.0], [0.0, 4.0]]), "a.weight_g": torch.tensor(10.0), "b": torch.ones(1)}
    joined, names = whole(state)
    assert names == ("a.weight",) and joined.keys() == {"a.weight", "b"}
    torch.testing.assert_close(joined["a.weight"], torch.tensor([[6.0, 0.0], [0.0, 8.0]]))
    again, _ = whole(apart(joined, names))
    torch.testing.assert_close(again, joined)


def test_axes_of_length_one_go_and_come_back():
    renaming = Renaming([("queries", "query_tokens"), ("*.norm", "*.ln")], leading={"query_tokens": 1})
    theirs = {"query_tokens": torch.randn(1, 4, 3), "a.ln": torch.randn(1, 2)}
    ours = renaming.to_ours(theirs)
    assert (ours["queries"].shape, ours["a.norm"].shape) == ((4, 3), (1, 2))
    assert all(torch.equal(weight, theirs[name]) for name, weight in renaming.to_theirs(ours).items())
    assert renaming.to_ours({"query_tokens": torch.randn(2, 4, 3)})["queries"].shape == (2, 4, 3)


def test_rows_of_one_weight_under_two_names():
    renaming = Renaming([("table", "words")], parted={"words": (3, "more")})
    theirs = {"words": torch.arange(6.0).view(3, 2), "more": torch.full((1, 2), 9.0)}
    ours = renaming.to_ours(theirs)
    assert ours["table"].tolist() == [[0, 1], [2, 3], [4, 5], [9, 9]]
    back = renaming.to_theirs(ours)
    assert back.keys() == theirs.keys() and all(torch.equal(back[name], theirs[name]) for name in theirs)
    assert renaming.read({**theirs, "more": torch.zeros(1, 3)})[1] == ["more"]


def test_what_their_format_lacks_is_zero_both_ways():
    renaming = Renaming([("map.weight", "proj.weight")], lacking=["*.bias"])
    module = nn.ModuleDict({"map": nn.Linear(3, 2, device="meta")})
    given = {"proj.weight": torch.randn(2, 3, dtype=torch.float16)}
    load_strict(module, given, "here", renaming=renaming)
    state = module.state_dict()
    assert state["map.bias"].tolist() == [0.0, 0.0] and state["map.bias"].dtype == torch.float16
    assert renaming.to_theirs(state).keys() == given.keys()
    with pytest.raises(InputError, match=r"map\.bias is not zero"):
        renaming.to_theirs({**state, "map.bias": torch.ones(2)})


def test_the_same_in_other_numbers_and_back():
    """A temperature as a logit scale, classes in another order, and rows of a stack head by head."""

    def apart(weight):
        return weight.unflatten(0, (2, 2, -1)).transpose(0, 1).flatten(0, 2)

    renaming = Renaming(
        [("scale", "temp"), ("*.classes", "*.match"), (("*.q", "*.k"), "*.qk")],
        changed={
            "temp": (lambda temp: -temp.log(), lambda scale: (-scale).exp()),
            "*.match": (lambda rows: rows.flip(0), lambda rows: rows.flip(0)),
            "*.qk": (apart, apart),
        },
    )
    rows = torch.tensor([0.0, 1, 2, 3])  # query and key of the first head, then of the second
    theirs = {"temp": torch.tensor(0.5), "a.match": torch.tensor([1.0, 2.0]), "a.qk": rows}
    ours = renaming.to_ours(theirs)
    assert ours["scale"] == -torch.tensor(0.5).log() and ours["a.classes"].tolist() == [2, 1]
    assert (ours["a.q"].tolist(), ours["a.k"].tolist()) == ([0, 2], [1, 3])
    back = renaming.to_theirs(ours)
    assert back.keys() == theirs.keys() and all(torch.equal(back[name], theirs[name]) for name in theirs)
