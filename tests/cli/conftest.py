"""A tiny saved run and a data set that it answers as it does: the truth is what it said when asked one by one."""

import base64
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from foveal.evaluation.score import normalise
from tests.tiny import tiny_run

QUESTIONS = {"where": "Where is the fox", "count": "How many", "present": "Is there an owl"}  # "?" would be an answer
WORDS = [*QUESTIONS.values(), "top left bottom right one two three four yes no maybe"]
LONGEST = 5
COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}


def row(scene, kind, answer):
    """A line of data."""
    content = [{"type": "image"}, {"type": "text", "text": QUESTIONS[kind]}]
    said = [{"role": "user", "content": content}, {"role": "assistant", "content": [{"type": "text", "text": answer}]}]
    return {
        "id": f"{scene}-{kind}",
        "images": [f"{scene}.png"],
        "messages": said,
        "meta": {"kind": kind, "scene": scene},
    }


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """`run`, with a `text_only` run inside, `data` with test and train splits, and one `picture`."""
    folder = tmp_path_factory.mktemp("tiny")
    run, data = tiny_run(WORDS), folder / "data"
    data.mkdir()
    rows = []
    for number in range(4):
        pixels = np.random.default_rng(number).integers(0, 255, (20, 28, 3), np.uint8)
        Image.fromarray(pixels).save(data / f"s{number}.png")
        for kind, text in QUESTIONS.items():
            said = run.answer(str(data / f"s{number}.png"), text, max_new_tokens=LONGEST).text
            rows.append(row(f"s{number}", kind, said))
    answers = [normalise(entry["messages"][1]["content"][0]["text"]) for entry in rows]
    assert all(answers) and len(set(answers)) > 3
    train = [row("s0", "where", "top left"), row("s1", "where", "top left"), row("s0", "count", "two")]
    for split, lines in (("test", rows), ("train", train)):
        (data / f"{split}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (data / "ATTRIBUTION.txt").write_text("Noise, by a generator.\n")
    run.save(folder / "run")
    tiny_run(WORDS, sight=False, seed=1).save(folder / "run" / "text_only")
    return SimpleNamespace(run=folder / "run", data=data, picture=data / "s0.png", questions=len(rows))


@pytest.fixture(scope="session")
def content(tiny):
    """A picture and a question, as OpenAI's clients send them."""
    url = "data:image/png;base64," + base64.b64encode(tiny.picture.read_bytes()).decode()
    return [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": QUESTIONS["where"]}]


@pytest.fixture
def painted(tmp_path, monkeypatch):
    """The working directory: `data` of six pictures of one colour each, two questions to each; caches of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "data").mkdir()
    lines = []
    for number in range(6):
        colour = list(COLOURS)[number % 3]
        Image.fromarray(np.full((16, 16, 3), COLOURS[colour], dtype=np.uint8)).save(f"data/{number}.png")
        for kind, question, answer in (("colour", "what colour is it", colour), ("size", "how large", "very large")):
            messages = [
                {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]},
                {"role": "assistant", "content": [{"type": "text", "text": answer}]},
            ]
            entry = {
                "id": f"{number}-{kind}",
                "images": [f"{number}.png"],
                "messages": messages,
                "meta": {"kind": kind},
            }
            lines.append(json.dumps({**entry, "boxes": [{"label": colour, "xyxy": [0, 0, 16, 16]}]}))
    Path("data/train.jsonl").write_text("\n".join(lines))
    return tmp_path
