"""Solved questions before a question: of its kind, of other scenes, the same for the same seed, and nothing leaks."""

import pytest
import torch

from foveal.core.errors import InputError
from foveal.core.example import Box, Example
from foveal.data.format import read
from foveal.data.motion import MotionConfig, write_motion
from foveal.decode.shared import generate_shared
from foveal.evaluation.questions import blind, questions, said
from foveal.evaluation.run import answers
from foveal.evaluation.shots import with_shots
from foveal.models.causal import assemble
from foveal.models.config import ModelConfig
from foveal.preprocess.processor import Processor, ProcessorConfig
from foveal.preprocess.transform import ImageTransform
from foveal.preprocess.words import word_tokenizer

ANSWERS = {"where": "left", "count": "two"}


def example(scene, kind, system=False):
    opening = [{"role": "system", "content": "Be brief."}] if system else []
    content = [{"type": "image"}, {"type": "text", "text": f"{kind} of {scene}"}]
    answer = {"role": "assistant", "content": [{"type": "text", "text": f"{ANSWERS[kind]} {scene}"}]}
    return Example(
        id=f"{scene}-{kind}",
        images=(f"{scene}.png",),
        messages=(*opening, {"role": "user", "content": content}, answer),
        boxes=(Box(label=scene, xyxy=(0.0, 0.0, 1.0, 1.0)),),
        meta={"kind": kind, "scene": scene},
    )


def pool(count=8, **settings):
    return questions([example(f"t{number}", kind, **settings) for number in range(count) for kind in ANSWERS])


def asked():
    return questions([example("q", kind) for kind in ANSWERS])


@pytest.mark.parametrize("shots", [1, 2, 4])
def test_solved_questions_stand_before_image_and_answer_in_turn(shots):
    for question, plain in zip(with_shots(asked(), pool(), shots), asked(), strict=True):
        shown = question.example
        assert (question.id, question.text, question.truth) == (plain.id, plain.text, plain.truth)
        assert len(shown.images) == shots + 1 and shown.images[-1] == "q.png" and len(set(shown.images)) == shots + 1
        assert [one["role"] for one in shown.messages] == [*["user", "assistant"] * shots, "user"]
        for place in range(shots):
            scene = shown.images[place].removesuffix(".png")
            assert said(shown.messages[2 * place]) == f"{question.kind} of {scene}"
            assert said(shown.messages[2 * place + 1]) == f"{ANSWERS[question.kind]} {scene}"
        assert all(one["content"][0] == {"type": "image"} for one in shown.messages[::2])
        assert [(box.label + ".png", box.image) for box in shown.boxes] == [(n, i) for i, n in enumerate(shown.images)]
        assert "q" not in "".join(said(one).split()[-1] for one in shown.messages[:-1])


def test_the_draw_depends_on_the_seed_and_the_question_alone():
    both, turned = with_shots(asked(), pool(), 3), with_shots(asked()[::-1], pool(), 3)
    assert both == turned[::-1]
    assert with_shots(asked(), pool(), 3, seed=1) != both
    many = questions([example(f"q{number}", "count") for number in range(40)])
    assert len({one.example.images[0] for one in with_shots(many, pool(), 1)}) == 8


def test_the_scene_that_is_asked_about_is_no_shot():
    own = questions([example("t0", "where")])
    for seed in range(20):
        (one,) = with_shots(own, pool(3), 2, seed=seed)
        assert sorted(one.example.images[:2]) == ["t1.png", "t2.png"]


def test_words_of_the_system_stand_once_and_first():
    mine = questions([example("q", "where", system=True)])
    (one,) = with_shots(mine, pool(system=True), 2)
    assert [message["role"] for message in one.example.messages] == ["system", *["user", "assistant"] * 2, "user"]


def test_without_images_the_words_stay():
    (one, _) = blind(with_shots(asked(), pool(), 2))
    assert one.example.images == () and len(one.example.messages) == 5


def test_none_are_the_questions_themselves():
    assert with_shots(asked(), [], 0) == asked()


@pytest.mark.parametrize(
    ("shots", "count", "told"),
    [(-1, 8, "-1 solved questions"), (3, 2, "wants 3 solved ones of other scenes, and the training questions have 2")],
)
def test_too_few_are_told(shots, count, told):
    with pytest.raises(InputError, match=told):
        with_shots(asked(), pool(count), shots)


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """Videos of drawings of which one moves."""
    out = tmp_path_factory.mktemp("films") / "data"
    write_motion(out, MotionConfig(size=64, drawings=8, things=(2, 3)), count=30)
    return read(out), read(out, split="test")


@pytest.mark.parametrize(
    "parts",
    [
        {"connector": "linear"},
        {
            "connector": {"name": "perceiver", "latents": 3, "depth": 1, "heads": 2, "head_width": 8, "frames": 2},
            "fusion": {"name": "gated_cross_attention", "heads": 2, "head_width": 8, "inner": 32, "start": 1.0},
        },
    ],
)
def test_videos_before_a_question_are_read_and_no_batch_changes_an_answer(films, parts):
    training, asked = (questions(examples) for examples in films)
    torch.manual_seed(0)
    tokenizer = word_tokenizer(sorted({text for one in training for text in (one.text, one.truth)}))
    settings = ProcessorConfig(image=ImageTransform(size=16), context=160)
    processor = Processor(tokenizer=tokenizer, config=settings)
    vit = {
        "name": "vit",
        "width": 16,
        "depth": 1,
        "heads": 2,
        "inner": 16,
        "patch": 8,
        "image_size": 16,
        "layers": [-1],
    }
    language = {"name": "decoder", "vocabulary": len(tokenizer), "width": 32, "depth": 2, "deviation": 0.5}
    model = assemble(ModelConfig.parse({"vision": vit, "language": language, **parts})).eval()

    def told(posed, size):
        settings = {"model": model, "processor": processor, "generate": generate_shared, "max_new_tokens": 4}
        return answers(posed, batch_size=size, **settings)

    few, other = (with_shots(asked, training, 2, seed=seed) for seed in (0, 1))
    together = told(few, 5)
    assert together == [told([one], 1)[0] for one in few]
    assert together != told(other, 5) and together != told(asked, 5)
