"""A run small enough to be made in milliseconds."""

import torch

from foveal.models.causal import assemble
from foveal.models.config import ModelConfig
from foveal.preprocess.processor import Processor, ProcessorConfig
from foveal.preprocess.transform import ImageTransform
from foveal.preprocess.words import word_tokenizer
from foveal.weights.run import Run


def tiny_run(texts, *, sight=True, seed=0, context=80):
    """A run with random weights and the words of `texts`; with or without an encoder."""
    torch.manual_seed(seed)
    tokenizer = word_tokenizer(texts)
    processor = Processor(tokenizer=tokenizer, config=ProcessorConfig(image=ImageTransform(size=16), context=context))
    vit = {"name": "vit", "width": 16, "depth": 1, "heads": 2, "inner": 16, "patch": 4, "image_size": 16}
    language = {"name": "decoder", "vocabulary": len(tokenizer), "width": 32, "depth": 2, "deviation": 0.5}
    parts = {"vision": {**vit, "layers": [-1]}, "connector": "linear"} if sight else {}
    model = assemble(ModelConfig.parse({**parts, "language": language})).eval()
    return Run(model, processor, about={"recipe": "tiny"})
