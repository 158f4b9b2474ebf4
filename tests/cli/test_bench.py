import json

import pytest
import torch

from foveal.cli import _benched
from foveal.cli.main import run
from foveal.preprocess.words import word_tokenizer
from tests.cli.test_app_desk import made

QUICK = ["--rounds", "1", "--max-new-tokens", "3", "--no-memory", "--json"]
PARTS = {"prepare", "see", "read", "first", "token", "answer"}


def benched(capsys, *arguments):
    assert run(["bench", *map(str, arguments), *QUICK]) == 0
    return json.loads(capsys.readouterr().out)


def test_parts_of_an_answer_with_all_tokens_and_under_budgets(tiny, capsys):
    told = benched(capsys, tiny.run, "--image", tiny.picture, "--budget", "4,2", "--strategy", "grid")
    whole, four, two = told["sides"]
    assert [side["side"] for side in told["sides"]] == ["all tokens", "grid 4", "grid 2"]
    assert [side["visual_tokens"] for side in told["sides"]] == [16, 4, 2]
    assert whole["tokens"] - four["tokens"] == 12 and four["tokens"] - two["tokens"] == 2
    assert set(whole["parts"]) == PARTS and set(four["parts"]) == PARTS | {"choose"}
    assert all(part["ms"] > 0 for side in told["sides"] for part in side["parts"].values())
    assert {part["ratio"] for part in whole["parts"].values()} == {1.0} and four["parts"]["choose"]["ratio"] is None
    assert told["equal"] is None and told["rounds"] == 1 and told["hardware"]


def test_rows_are_asked_together(tiny, capsys):
    told = benched(capsys, tiny.run, "--size", "40", "--batch", "3")
    (whole,) = told["sides"]
    assert whole["visual_tokens"] == 16
    assert whole["tokens_per_second"] == pytest.approx(3 * 3 / (whole["parts"]["answer"]["ms"] / 1000))


def test_a_run_without_images_is_timed_by_its_words(tiny, capsys):
    (told,) = benched(capsys, tiny.run / "text_only")["sides"]
    assert set(told["parts"]) == PARTS - {"see", "read"} and told["visual_tokens"] == 0


def test_one_that_answers_as_a_whole_is_timed_as_a_whole(tmp_path, capsys):
    made("chosen").save(tmp_path / "run")
    told = benched(capsys, tmp_path / "run", "--budget", "4")["sides"]
    assert [(set(side["parts"]), side["visual_tokens"]) for side in told] == [({"answer"}, 16), ({"answer"}, 4)]
    assert run(["bench", str(tmp_path / "run"), "--batch", "2"]) == 2
    assert "--batch 2 of a model that is asked one by one" in capsys.readouterr().err


def test_a_run_that_cannot_be_asked_in_words_is_refused(tmp_path, capsys):
    run_of = made("prefix")
    run_of.processor = None
    run_of.save(tmp_path / "run")
    assert run(["bench", str(tmp_path / "run")]) == 2
    assert "written without a processor" in capsys.readouterr().err


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A random tiny LLaVA of transformers with its processor."""
    import transformers as hf

    torch.manual_seed(0)
    words = word_tokenizer(["what is in the picture ?"], special=["<image>"])
    small = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    vision = hf.CLIPVisionConfig(**small, image_size=24, patch_size=8)
    text = hf.LlamaConfig(**small, vocab_size=len(words), max_position_embeddings=128, initializer_range=0.5)
    image = words.convert_tokens_to_ids("<image>")
    folder = tmp_path_factory.mktemp("llava")
    config = hf.LlavaConfig(vision_config=vision, text_config=text, image_token_index=image)
    hf.LlavaForConditionalGeneration(config).save_pretrained(folder)
    each = "{% if part.type == 'image' %}<image> {% else %}{{ part.text }}{% endif %}"
    template = "{% for m in messages %}{% for part in m.content %}" + each + "{% endfor %}{% endfor %}"
    look = hf.CLIPImageProcessorPil(size={"shortest_edge": 24}, crop_size={"height": 24, "width": 24})
    way = {"patch_size": 8, "num_additional_image_tokens": 1, "vision_feature_select_strategy": "default"}
    hf.LlavaProcessor(image_processor=look, tokenizer=words, chat_template=template, **way).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("rows", [1, 2])
def test_the_same_checkpoint_by_transformers_reads_and_writes_the_same_tokens(checkpoint, capsys, rows):
    told = benched(capsys, checkpoint, "--against", "huggingface", "--batch", rows, "--budget", "4")
    theirs, ours, fewer = told["sides"]
    assert [side["side"] for side in told["sides"]] == ["huggingface", "all tokens", "foveal 4"]
    assert theirs["tokens"] == ours["tokens"] == fewer["tokens"] + 5 and told["equal"] == 3
    assert set(theirs["parts"]) == PARTS - {"read"}  # which is a part of its first token alone
    assert all(ours["parts"][part]["ratio"] > 0 for part in theirs["parts"])


def test_a_language_model_alone_is_compared_too(tmp_path, capsys):
    import transformers as hf

    torch.manual_seed(0)
    words = word_tokenizer(["what is in the picture ?"])
    small = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = hf.LlamaConfig(**small, vocab_size=len(words), max_position_embeddings=64, initializer_range=0.5)
    hf.LlamaForCausalLM(config).save_pretrained(tmp_path)
    words.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    words.save_pretrained(tmp_path)
    theirs, ours = (told := benched(capsys, tmp_path, "--against", "huggingface"))["sides"]
    assert theirs["tokens"] == ours["tokens"] == 6 and told["equal"] == 3
    assert set(theirs["parts"]) == set(ours["parts"]) == PARTS - {"see", "read"}


def test_the_table_says_the_ratio_to_the_first_side(tiny, capsys):
    row = ["bench", str(tiny.run), "--image", str(tiny.picture), "--budget", "4", "--rounds", "1", "--no-memory"]
    assert run([*row, "--threads", "1"]) == 0
    heads, whole, four, by = capsys.readouterr().out.splitlines()
    assert "first token, ms" in heads and "x)" not in whole and four.count("x)") == 6 and "memory" not in heads
    assert "1 thread, float32, 1 rounds" in by


def test_memory_is_that_of_a_process_which_loads_one_side(tiny):
    wish = _benched.Wish(run=tiny.run, images=(str(tiny.picture),), size=16, prompt="Where", new=2, rows=1)
    most = _benched.peak(wish, _benched.ALL, threads=1)
    assert most is not None and 50 * 2**20 < most < 2**33


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--against", "huggingface"], "the starter model is none of transformers'"),
        (["{run}", "--against", "hugginface"], "did you mean 'huggingface'"),
        (["{run}", "--against", "huggingface", *QUICK[:1], "1"], "transformers does not open"),
        (["{run}", "--rounds", "0"], "--rounds 0; give 1 or more"),
        (["{run}", "--threads", "0"], "--threads 0; give 1 or more"),
        (["{run}", "--size", "0"], "--size 0; give the side"),
        (["{run}", "--dtype", "float8"], "unknown dtype"),
        (["{run}", "--strategy", "grid"], "give --budget"),
        (["{run}", "--max-new-tokens", "500"], "500"),
    ],
)
def test_what_cannot_be_timed_is_refused_in_a_line(tiny, capsys, arguments, said):
    assert run(["bench", *(one.format(run=tiny.run) for one in arguments)]) == 2
    told = capsys.readouterr().err
    assert said in told and told.count("\n") == 1
