import base64
import io
import json

import pytest
from PIL import Image

from foveal.cli._serve_wish import WORDIEST, Refusal, wish
from foveal.core.example import Held
from foveal.preprocess.image import open_image

MINE = {"model": "mine", "strategies": ("all", "foveal")}
USER = [{"role": "user", "content": "Where is the fox"}]


def source(size=(6, 4)):
    held = io.BytesIO()
    Image.new("RGB", size, (255, 0, 0)).save(held, "PNG")
    return "data:image/png;base64," + base64.b64encode(held.getvalue()).decode()


def shown(url):
    return {"type": "image_url", "image_url": {"url": url, "detail": "high"}}


def heard(**given):
    return wish(json.dumps({"messages": USER, **given}).encode(), **MINE)


def refused(**given):
    with pytest.raises(Refusal) as told:
        heard(**given)
    assert "\n" not in str(told.value)
    return told.value


def test_a_conversation_is_told_in_the_house_s_form():
    said = [
        {"role": "developer", "content": "Be short."},
        {"role": "user", "content": [shown(source()), {"type": "text", "text": "What is it"}], "name": "ann"},
        {"role": "assistant", "content": "a fox", "refusal": None, "tool_calls": None, "annotations": []},
        {"role": "user", "content": [{"type": "text", "text": "And this"}, shown(source((3, 3)))]},
    ]
    asked = heard(messages=said).asked
    assert [one["role"] for one in asked.messages] == ["system", "user", "assistant", "user"]
    assert [part["type"] for one in asked.messages for part in one["content"]] == [
        "text", "image", "text", "text", "text", "image",
    ]  # fmt: skip
    assert [image.size for image in asked.images] == [(6, 4), (3, 3)]


def test_an_assistant_may_have_said_nothing():
    said = [*USER, {"role": "assistant", "content": ""}, *USER]
    assert heard(messages=said).asked.messages[1]["content"] == [{"type": "text", "text": ""}]


def test_what_is_not_said_is_left_to_the_model():
    plain = heard(temperature=None, stop=None, n=1, user="ann", logprobs=False, response_format={"type": "text"})
    assert (plain.most, plain.temperature, plain.top_p, plain.seed, plain.stops) == (None, None, None, None, ())
    assert (plain.budget, plain.strategy, plain.stream, plain.usage) == (None, "foveal", False, False)
    assert plain.question == "Where is the fox" and heard(messages=USER + USER).question is None


def test_what_is_said_is_heard():
    told = heard(
        model="mine", max_tokens=7, max_completion_tokens=7, temperature=0, top_p=0.5, seed=-3, stop="x",
        stream=True, stream_options={"include_usage": True}, budget=5, strategy="all",
    )  # fmt: skip
    assert (told.most, told.temperature, told.top_p, told.seed, told.stops) == (7, 0, 0.5, -3, ("x",))
    assert (told.budget, told.strategy, told.stream, told.usage) == (5, "all", True, True)
    assert heard(stop=["a", "b"]).stops == ("a", "b") and heard(max_completion_tokens=3).most == 3


@pytest.mark.parametrize(
    ("given", "said", "param"),
    [
        ({"max_tokens": 0}, "max_tokens of 0", "max_tokens"),
        ({"max_tokens": 2.5}, "max_tokens of 2.5", "max_tokens"),
        ({"max_tokens": True}, "max_tokens of True", "max_tokens"),
        ({"max_tokens": 1, "max_completion_tokens": 2}, "give one of the two", "max_tokens"),
        ({"temperature": 2.1}, "temperature of 2.1", "temperature"),
        ({"temperature": float("nan")}, "temperature of nan", "temperature"),
        ({"temperature": 10**400}, "temperature of 1000", "temperature"),
        ({"top_p": 0}, "temperature of 0", "top_p"),
        ({"top_p": "1"}, "top_p of 1", "top_p"),
        ({"seed": 2**63}, "seed of 9223372036854775808", "seed"),
        ({"stop": ""}, "stop of ''", "stop"),
        ({"stop": ["a", 3]}, "stop of ['a', 3]", "stop"),
        ({"stop": list("abcde")}, "stop of 5 texts", "stop"),
        ({"stream": 1}, "stream of 1", "stream"),
        ({"stream_options": {}}, "without a stream", "stream_options"),
        ({"stream": True, "stream_options": {"x": 1}}, "stream_options of", "stream_options"),
        ({"stream": True, "stream_options": {"include_usage": 1}}, "include_usage of 1", "stream_options"),
        ({"n": 2}, "n of 2 is not there", "n"),
        ({"logprobs": True}, "logprobs of True", "logprobs"),
        ({"tools": [{}]}, "tools of", "tools"),
        ({"response_format": {"type": "json_object"}}, "response_format", "response_format"),
        ({"budgets": 5}, "did you mean 'budget'?", "budgets"),
        ({"quux": 5}, "unknown setting 'quux'; leave it out", "quux"),
        ({"budget": 0}, "budget of 0", "budget"),
        ({"strategy": "fovael"}, "did you mean 'foveal'?", "strategy"),
        ({"strategy": ["foveal"]}, "unknown strategy", "strategy"),
        ({"messages": None}, "there are no messages", "messages"),
        ({"messages": []}, "there are no messages", "messages"),
        ({"messages": {"role": "user"}}, "there are no messages", "messages"),
        ({"messages": ["hello"]}, "messages[0] is of role None", "messages[0].role"),
        ({"messages": [{"role": "tool", "content": "a"}]}, "is of role 'tool'", "messages[0].role"),
        ({"messages": [{"role": ["user"], "content": "a"}]}, "is of role", "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "is no text", "messages[0].content"),
        ({"messages": [{"role": "user", "content": "  "}]}, "is empty", "messages[0].content"),
        ({"messages": [{"role": "user", "content": []}]}, "is empty", "messages[0].content"),
        ({"messages": [{"role": "user", "content": "a", "tool_calls": [1]}]}, "'tool_calls'", "messages[0].tool_calls"),
        ({"messages": [*USER, {"role": "assistant", "content": "b"}]}, "end with one of the user", "messages[1]"),
        ({"messages": [{"role": "system", "content": "b"}]}, "the last message is of the system", "messages[0]"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, "half a character", "messages[0].content[0]"),
        ({"messages": [{"role": "user", "content": "a" * (WORDIEST + 1)}]}, "letters", "messages"),
    ],
)
def test_what_is_wrong_is_one_line_with_its_name(given, said, param):
    refusal = refused(**given)
    assert said in str(refusal) and refusal.param == param and refusal.status == 400


@pytest.mark.parametrize(
    ("part", "said"),
    [
        (shown("https://example.com/a.png"), "opens no addresses and no files; put the picture itself there"),
        (shown("file:///etc/hosts"), "opens no addresses and no files"),
        (shown("cat.png"), "opens no addresses and no files"),
        (shown("data:image/png,abc"), "holds no picture in base64"),
        (shown("data:image/png;base64,!!"), "holds no picture in base64"),
        (shown("data:image/png;base64,"), "holds no picture in base64"),
        (shown("data:image/png;base64,aGVsbG8="), "is not a picture"),
        (shown(source((3, 3))[:-40]), "the picture of messages[0].content[0]"),
        ({"type": "image_url", "image_url": source()}, "has no image_url.url"),
        ({"type": "input_audio"}, "is of type 'input_audio'"),
        ({"type": "text", "text": 3}, "is of type 'text'"),
        ("text", "is of type None"),
    ],
)
def test_what_is_no_part_is_one_line(part, said):
    refusal = refused(messages=[{"role": "user", "content": [part]}])
    assert said in str(refusal) and refusal.param == "messages[0].content[0]"


def test_only_the_user_shows_pictures():
    said = [{"role": "system", "content": [shown(source())]}, *USER]
    assert "show it in one of the user" in str(refused(messages=said))


def test_another_model_is_not_here():
    refusal = refused(model="gpt")
    assert (refusal.status, refusal.code, refusal.param) == (404, "model_not_found", "model")


@pytest.mark.parametrize("body", [b"{", b"[1]", b"[" * 100_000, b"\xff\xfe", b""])
def test_what_is_no_request_is_one_line(body):
    with pytest.raises(Refusal, match="the request"):
        wish(body, **MINE)


def test_pictures_together_have_a_limit(monkeypatch):
    monkeypatch.setattr("foveal.cli._serve_wish.MOST_PIXELS", 40)
    assert len(heard(messages=[{"role": "user", "content": [shown(source())]}]).asked.images) == 1
    refusal = refused(messages=[{"role": "user", "content": [shown(source())] * 2}])
    assert "6 x 4" in str(refusal) and refusal.param == "messages[0].content[1]"


def test_many_pixels_wait_as_their_file(monkeypatch):
    said = [{"role": "user", "content": [shown(source())]}]
    monkeypatch.setattr("foveal.cli._serve_wish._LIGHT", 20)
    (held,) = heard(messages=said).asked.images
    assert isinstance(held, Held) and open_image(held).size == (6, 4)
