"""A tiny model, tiny pictures and questions about them: all that training needs, in milliseconds."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from foveal.core.example import Box, Example
from foveal.models.causal import assemble
from foveal.models.config import ModelConfig
from foveal.preprocess.processor import Processor, ProcessorConfig
from foveal.preprocess.transform import ImageTransform
from foveal.preprocess.words import word_tokenizer

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}
KINDS = ("colour", "size", "long")


@dataclass
class World:
    """What a run is made of."""

    data: list
    processor: Processor
    folder: Path

    def model(self, seed=0, fusion=None, **language):
        """A fresh tiny model, the same for the same seed."""
        torch.manual_seed(seed)
        vit = {"name": "vit", "width": 8, "depth": 1, "heads": 2, "inner": 16, "patch": 8, "image_size": 16}
        words = len(self.processor.tokenizer)
        decoder = {"name": "decoder", "vocabulary": words, "width": 16, "depth": 2, "heads": 2, "inner": 32}
        config = {
            "vision": {**vit, "layers": [-1]},
            "connector": "linear",
            "language": {**decoder, "deviation": 0.2, **language},
            "head": {"name": "language_model", "tied": True},
        }
        return assemble(ModelConfig.parse(config | ({"fusion": fusion} if fusion else {})))

    def collate(self, model, *, cells=False, visual=None):
        """What `train` wants: for a stage, what makes a batch of groups."""

        def of(stage):
            def make(groups, place=0):
                entries = [group if len(group) > 1 else group[0] for group in groups]
                return self.processor.training(entries, plan=model.plan, cells=cells, visual=visual, length=stage.pack)

            return make

        return of


def ask(number, path, colour, kind):
    """One example of a kind: answers differ in length."""
    texts = {
        "colour": ("what colour is it", colour),
        "size": ("how large is it", "as large as all"),
        "long": ("say it all", f"it is {colour} and it is as large as all the picture"),
    }
    question, answer = texts[kind]
    messages = (
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]},
        {"role": "assistant", "content": [{"type": "text", "text": answer}]},
    )
    boxes = (Box(label=colour, xyxy=(0.0, 0.0, 16.0, 16.0)),)
    return Example(id=f"{number}-{kind}", messages=messages, images=(path,), boxes=boxes, meta={"kind": kind})


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """Twelve pictures of one colour each, three questions to each."""
    return built(tmp_path_factory.mktemp("world"))


def built(folder):
    """A world whose pictures lie in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    chance = np.random.default_rng(0)
    data = []
    for number in range(12):
        colour = list(COLOURS)[number % 3]
        noise = chance.integers(-20, 20, (16, 16, 3))
        pixels = (np.array(COLOURS[colour]) + noise).clip(0, 255).astype(np.uint8)
        path = folder / f"{number}.png"
        Image.fromarray(pixels).save(path)
        data += [ask(number, path, colour, kind) for kind in KINDS]
    said = [part["text"] for e in data for m in e.messages for part in m["content"] if part["type"] == "text"]
    processor = Processor(
        tokenizer=word_tokenizer(said), config=ProcessorConfig(image=ImageTransform(size=16, mode="square"))
    )
    return World(data, processor, folder)
