"""BLIP-2 in its two stages: queries by three objectives, then a frozen language model that reads them."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

import foveal
from foveal.cli import _objectives, _recipe, systems
from foveal.cli.main import run
from foveal.training.config import Stage
from tests.launcher import two_processes

COLOURS = ("red", "green", "blue", "black", "white", "yellow", "purple", "cyan")
VIT = {"name": "vit", "width": 8, "depth": 1, "heads": 2, "inner": 16, "patch": 8, "image_size": 16, "layers": [-1]}
QFORMER = {"name": "qformer", "queries": 3, "width": 16, "depth": 2, "heads": 2, "inner": 32, "places": 2}
TRAINING = {"device": "cpu", "log_every": 1, "features": {"dtype": "fp32"}}
SHARED = {
    "system": "blip2",
    "processor": {"image": {"size": 16, "mode": "square"}, "order": "prefix"},
    "data": {"path": "data"},
}
FIRST = {
    **SHARED,
    "model": {
        "assembly": "two_tower",
        "vision": VIT,
        "connector": None,
        "language": {**QFORMER, "deviation": 0.2},
        "heads": {"pair": {"name": "contrastive", "size": 8}, "write": "masked_language", "matching": "averaged"},
    },
    "training": {
        **TRAINING,
        "stages": [
            {"name": "queries", "steps": 150, "train": ["language", "heads"], "batch_size": 8, "objective": "queries",
             "rate": 5e-3, "kinds": {"caption": 1, "*": 0}},
        ],
    },
}  # fmt: skip
SECOND = {
    **SHARED,
    "model": {
        "vision": VIT,
        "connector": QFORMER,
        "language": {"name": "decoder", "width": 16, "depth": 1, "heads": 2, "inner": 32},
        "head": {"name": "language_model", "tied": True},
    },
    "init": {"connector": "runs/first"},
    "training": {
        **TRAINING,
        "keep_stages": True,
        "stages": [
            {
                "name": "read",
                "steps": 3,
                "train": ["language", "head"],
                "batch_size": 4,
                "group": True,
                "images": "told",
            },
            {"name": "speak", "steps": 3, "train": ["connector"], "batch_size": 4, "group": True},
        ],
    },
}


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    """The working directory: pictures of a colour each, with a caption and a question to each, twice."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "data").mkdir()
    lines = []
    for number, colour in enumerate(COLOURS):
        Image.new("RGB", (16, 16), colour).save(f"data/{number}.png")
        said = (("caption", "what is there", f"a picture all in {colour}"), ("colour", "what colour is it", colour))
        for kind, question, answer in said:
            content = [{"type": "image"}, {"type": "text", "text": question}]
            messages = [{"role": "user", "content": content}, {"role": "assistant", "content": answer}]
            one = {"id": f"{number}-{kind}", "images": [f"{number}.png"], "messages": messages, "meta": {"kind": kind}}
            lines.append(json.dumps(one))
    for split in ("train", "test"):
        Path(f"data/{split}.jsonl").write_text("\n".join(lines))
    Path("first.yaml").write_text(yaml.safe_dump(FIRST))
    Path("second.yaml").write_text(yaml.safe_dump(SECOND))
    return tmp_path


def log(name):
    return [json.loads(line) for line in Path(f"runs/{name}/log.jsonl").read_text().splitlines()]


def test_the_first_stage_learns_all_three_and_is_scored(pictures, capsys):
    assert run(["train", "first.yaml"]) == 0
    rows = log("first")
    for part in ("pairs", "words", "matching"):
        first, last = (np.mean([row[f"loss_{part}"] for row in some]) for some in (rows[:5], rows[-5:]))
        assert last < 0.8 * first, part
    capsys.readouterr()
    assert run(["eval", "--run", "runs/first", "--data", "data", "--pretraining", "--batch", "8", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert {task: set(told[task]) for task in ("pair", "write", "matching")} == {
        "pair": {"loss", "prior", "accuracy", "majority", "count"},
        "write": {"loss", "prior", "accuracy", "majority", "count"},
        "matching": {"loss", "prior", "accuracy", "majority", "count"},
    }
    assert told["pair"]["count"] == 8 and told["pair"]["majority"] == 1 / 8
    assert told["matching"]["count"] == 8 and told["write"]["count"] == 8 * 6
    assert told["pair"]["accuracy"] > 0.3 and told["write"]["accuracy"] > told["write"]["majority"]
    assert run(["eval", "--run", "runs/first", "--data", "data", "--pretraining"]) == 0
    assert "write" in capsys.readouterr().out


@pytest.mark.parametrize("ways", ["processes", "shares", "micro-batches"])
def test_contrast_and_writing_are_over_all_rows_of_a_step(pictures, ways):
    objective = "training.stages.0.objective={name: queries, matching: 0}"
    steps = "training.stages.0.steps=3"
    assert run(["train", "first.yaml", objective, steps, "--out", "one"]) == 0
    halves = ["train", "first.yaml", objective, steps, "training.stages.0.batch_size=4", "--out", "two"]
    if ways != "micro-batches":
        two_processes(*halves, f"training.zero={3 if ways == 'shares' else 0}")
    else:
        assert run([*halves, "training.stages.0.accumulate=2"]) == 0
    one, two = (load_file(f"{place}/model.safetensors") for place in ("one", "two"))
    apart = [name for name in one if not torch.allclose(one[name], two[name], atol=1e-5)]
    assert [name for name in apart if not name.endswith("key.bias")] == []  # whose gradient is nothing but rounding
    told = [[json.loads(line)["loss_pairs"] for line in Path(place, "log.jsonl").read_text().splitlines()]
            for place in ("one", "two")]  # fmt: skip
    torch.testing.assert_close(*map(torch.tensor, told))


def test_the_frozen_language_model_stays_as_it_learned_to_read(pictures):
    assert run(["train", "first.yaml", "training.stages.0.steps=2"]) == 0
    assert run(["train", "second.yaml"]) == 0
    read, last = (foveal.load(place).model for place in ("runs/second/stages/read", "runs/second"))
    begun, first = foveal.load("runs/first").model, read.connector.state_dict()
    for name, weight in last.state_dict().items():
        same = torch.equal(weight, read.state_dict()[name])
        assert same == (not name.startswith("connector.")) or name.startswith("connector.shown.place")
    assert torch.equal(first["queries"], begun.language.queries)
    assert foveal.load("runs/second").answer("data/0.png", "what colour is it").visual_tokens == 3


def test_what_is_frozen_is_in_no_checkpoint(pictures):
    assert run(["train", "first.yaml", "training.stages.0.steps=2"]) == 0
    text = {**SECOND, "init": {}, "training": {**SECOND["training"], "stages": SECOND["training"]["stages"][:1]}}
    Path("text.yaml").write_text(yaml.safe_dump(text))
    assert run(["train", "text.yaml"]) == 0
    frozen = {**SECOND, "init": {"connector": "runs/first", "language": "runs/text"}}
    frozen["training"] = {**frozen["training"], "stages": SECOND["training"]["stages"][1:]}
    Path("frozen.yaml").write_text(yaml.safe_dump(frozen))
    assert run(["train", "frozen.yaml"]) == 0
    (newest,) = sorted(Path("runs/frozen/checkpoints").iterdir())[-1:]
    weights = [name for path in newest.rglob("*.safetensors") for name in load_file(path)]
    assert weights and not [name for name in weights if "language" in name or "head" in name or "vision" in name]
    text, run_of = foveal.load("runs/text").model, foveal.load("runs/frozen").model
    for name, weight in text.language.state_dict().items():
        assert torch.equal(weight, run_of.language.state_dict()[name])


def a_llama(folder):
    """A random tiny Llama of transformers, with the words of the data as its tokenizer and a chat template."""
    import transformers as hf

    tokenizer = foveal.load("runs/first").processor.tokenizer
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}\n{% endfor %}"
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = hf.LlamaConfig(vocab_size=len(tokenizer) + 3, max_position_embeddings=90, eos_token_id=1, **sizes)
    hf.LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", ["a run", "a checkpoint"])
def test_a_language_model_that_is_trained_stands_in_by_one_setting(pictures, kind):
    assert run(["train", "first.yaml", "training.stages.0.steps=2"]) == 0
    if kind == "a run":
        assert run(["train", "second.yaml", "training.stages.0.steps=2", "--out", "lm"]) == 0
    source = Path("lm") if kind == "a run" else a_llama(Path("lm"))
    assert run(["train", "second.yaml", f"model.language={source}"]) == 0
    made = foveal.load("runs/second")
    assert {entry["stage"] for entry in log("second")} == {"speak"}
    before = foveal.load(source).model
    for part in ("language", "head"):
        theirs, ours = (getattr(one, part).state_dict() for one in (before, made.model))
        assert theirs.keys() == ours.keys() and all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert made.processor.config.template == ("plain" if kind == "a run" else "tokenizer")
    assert made.processor.tokenizer.get_vocab() == foveal.load("runs/first").processor.tokenizer.get_vocab()
    assert foveal.load("runs/second").answer("data/0.png", "what colour is it").visual_tokens == 3


def test_a_language_model_of_no_source_is_told(pictures, capsys):
    assert run(["train", "second.yaml", "model.language=smollm2-135"]) == 2
    assert "unknown language 'smollm2-135'; did you mean 'smollm2-135m'" in capsys.readouterr().err
    Path("strange").mkdir()
    Path("strange/config.json").write_text('{"model_type": "t5"}')
    assert run(["train", "second.yaml", "model.language=strange"]) == 2
    assert "'t5', which is no language part" in capsys.readouterr().err


def test_text_alone_has_nothing_to_learn_in_the_first_stage(pictures, capsys):
    assert _objectives.blind(Stage(steps=1, objective="queries")) is None
    assert run(["train", "first.yaml", "text_only=true"]) == 2
    assert "without images nothing is left" in capsys.readouterr().err


def test_a_first_stage_that_is_not_there_is_told(pictures, capsys):
    assert run(["train", "second.yaml"]) == 2
    assert "there is no run runs/first" in capsys.readouterr().err


def test_the_systems_are_as_large_as_the_papers():
    sizes = {name: systems.row(_recipe.read(name))["reference"] for name in ("blip2", "blip2_pre", "llava")}
    assert sizes == {"blip2": 105_137_664, "blip2_pre": 186_702_654, "llava": None}
