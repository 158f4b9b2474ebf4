"""Generation settings: each is obeyed, of no effect, or refused by its name."""

import pytest
import torch

from foveal.weights.generation import OBEYED, own_settings, refused, sampling_of


@pytest.mark.parametrize(
    "told",
    [
        {"max_new_tokens": 5, "eos_token_id": [1, 2], "do_sample": True, "top_p": 0.5},
        {"use_cache": False, "max_length": 20, "_from_model_config": True},
        {"num_beams": 1, "guidance_scale": 1.0, "typical_p": 1.0, "min_p": 0.0, "do_sample": True},
        {"bad_words_ids": [], "sequence_bias": {}, "suppress_tokens": None, "min_length": 0},
        {"min_p": 0.1, "typical_p": 0.5, "eta_cutoff": 0.1},
    ],
)
def test_what_changes_no_answer_is_let_through(told):
    assert refused(told) == []


@pytest.mark.parametrize(
    "told",
    [
        *({"num_beams": 2}, {"guidance_scale": 0}, {"bad_words_ids": torch.tensor([[3]])}, {"strange": 1}),
        *({"min_p": 0.1, "do_sample": True}, {"typical_p": 0.5, "do_sample": True}, {"output_scores": True}),
    ],
)
def test_what_would_change_one_is_named(told):
    assert refused(told) == [next(iter(told))]


@pytest.mark.parametrize("name", ["forced_decoder_ids", "penalty_alpha", "constraints", "dola_layers"])
def test_what_an_older_transformers_obeyed_is_refused_whichever_is_installed(name, monkeypatch):
    monkeypatch.setattr("foveal.weights.generation._theirs", frozenset)
    assert refused(own_settings({name: [[1, 2]], "chat_format": "chatml"})) == [name]


def test_a_checkpoint_says_what_somebody_reads():
    told = {**dict.fromkeys(OBEYED, 1), "chat_format": "chatml", "output_scores": True, "top_h": None, "max_time": 4}
    assert own_settings(told) == {**dict.fromkeys(OBEYED, 1), "max_time": 4}


def test_a_generator_says_what_is_drawn():
    logits = torch.zeros(1, 1000)
    none = logits[:, :0].long()
    drawn = []
    for seed in (1, 1, 2):
        choose = sampling_of({"do_sample": True, "top_k": 0}, torch.Generator().manual_seed(seed))
        drawn.append([int(choose(logits, none, none)) for _ in range(4)])
    assert drawn[0] == drawn[1] != drawn[2]
