import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import pytest
import torch
from PIL import Image

from foveal.cli import _benched
from foveal.cli.main import run
from foveal.preprocess.words import word_tokenizer
from tests.cli.test_app_desk import made
from tests.preprocess.test_asked_in_words import blip, words_of

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
    wish = _benched.Wish(run=tiny.run, images=(), size=40, prompt="Where", new=2, rows=3)
    ((_, side),) = _benched.sides(wish, [_benched.ALL])
    side()
    assert side.said.shape == (3, 2)


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


@pytest.mark.parametrize(
    "settings", [{"repetition_penalty": 1.8}, {"num_beams": 3}, {"use_cache": False, "return_dict_in_generate": True}]
)
def test_both_sides_take_the_best_token_whatever_the_checkpoint_asks_for(checkpoint, tmp_path, capsys, settings):
    shutil.copytree(checkpoint, tmp_path / "asks")
    (tmp_path / "asks" / "generation_config.json").write_text(json.dumps({"eos_token_id": list(range(12)), **settings}))
    assert benched(capsys, tmp_path / "asks", "--against", "huggingface")["equal"] == 3


def test_without_a_chat_template_it_is_told_that_prompts_differ(checkpoint, tmp_path, capsys):
    shutil.copytree(checkpoint, tmp_path / "bare")
    (tmp_path / "bare" / "chat_template.jinja").unlink()
    assert run(["bench", str(tmp_path / "bare"), "--against", "huggingface", *QUICK[:-1]]) == 0
    assert "their prompts differ (15 and" in capsys.readouterr().out


def test_no_code_of_a_checkpoint_is_run_and_no_video_shown_to_transformers(checkpoint, tmp_path, capsys):
    shutil.copytree(checkpoint, tmp_path / "own")
    (tmp_path / "own" / "evil.py").write_text("raise SystemExit('was run')")
    config = json.loads((checkpoint / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "evil.A", "AutoModelForImageTextToText": "evil.B"}
    (tmp_path / "own" / "config.json").write_text(json.dumps(config))
    assert benched(capsys, tmp_path / "own", "--against", "huggingface")["equal"] == 3
    (tmp_path / "film").mkdir()
    for number in range(2):
        Image.new("RGB", (8, 8)).save(tmp_path / "film" / f"{number}.png")
    film = ["--image", str(tmp_path / "film")]
    assert run(["bench", str(checkpoint), "--against", "huggingface", *film]) == 2
    assert "videos are not compared with transformers" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["blip2, opt", "instructblip, opt"])
def test_one_whose_processor_marks_its_queries_and_that_writes_by_a_model_within(tmp_path, capsys, kind):
    model, processor = blip(kind, words_of(kind))
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    assert benched(capsys, tmp_path, "--against", "huggingface")["equal"] == 3


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


def test_a_process_that_was_ended_tells_no_memory(tiny, monkeypatch):
    def ended(*given):
        raise BrokenProcessPool

    monkeypatch.setattr(_benched, "_held", ended)
    monkeypatch.setattr(_benched, "ProcessPoolExecutor", lambda **given: ThreadPoolExecutor(1))
    wish = _benched.Wish(run=tiny.run, images=(), size=16, prompt="Where", new=2, rows=1)
    assert _benched.peak(wish, _benched.ALL, threads=1) is None


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
        (["{run}", "--image", "-"], "--image - is read once"),
        (["{run}/text_only", "--image", "x.png"], "1 images for a model without a vision encoder"),
        (["{run}", "--dtype", "float8"], "unknown dtype"),
        (["{run}", "--strategy", "grid"], "give --budget"),
        (["{run}", "--max-new-tokens", "500"], "500"),
    ],
)
def test_what_cannot_be_timed_is_refused_in_a_line(tiny, capsys, arguments, said):
    assert run(["bench", *(one.format(run=tiny.run) for one in arguments)]) == 2
    told = capsys.readouterr().err
    assert said in told and told.count("\n") == 1
