"""A run small enough to be made in milliseconds."""

import torch

from foveal.models import assembly
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


def tiny_painter(texts, *, seed=0, context=60):
    """The same for a run that draws: 4 codes of an untrained tokenizer an image, in one vocabulary with the words."""
    torch.manual_seed(seed)
    tokenizer = word_tokenizer(texts)
    begin, end = "<system>", "<eos>"
    settings = ProcessorConfig(image=ImageTransform(size=16), context=context, around=(begin, end), draws=True)
    processor = Processor(tokenizer=tokenizer, config=settings)
    vq = {"name": "vq", "codes": 12, "width": 8, "latent": 4, "base": 32, "multiples": [1, 2], "fold": 4, "blocks": 1}
    sizes = {"vocabulary": len(tokenizer) + 12, "width": 32, "depth": 2, "deviation": 0.5}
    parts = {"vision": {**vq, "resolution": 16}, "connector": None, "language": {"name": "decoder", **sizes}}
    fusion = {"name": "vocabulary", "codes": 12, "first": len(tokenizer)}
    model = assemble(ModelConfig.parse({**parts, "fusion": fusion})).eval()
    torch.nn.init.normal_(model.vision.codebook.weight)  # codes that differ make pictures that differ
    return Run(model, processor, about={"recipe": "tiny"})


def tiny_tokenizer(*, seed=0):
    """A run that is an image tokenizer alone: 12 codes on 2 x 2 cells of images of 16 x 16 pixels."""
    torch.manual_seed(seed)
    vq = {"name": "vq", "codes": 12, "width": 8, "latent": 4, "base": 32, "multiples": [1, 2], "fold": 4, "blocks": 1}
    model = assembly.assemble(ModelConfig.parse({"assembly": "autoencoder", "vision": {**vq, "resolution": 16}})).eval()
    torch.nn.init.normal_(model.vision.codebook.weight)
    processor = Processor(tokenizer=word_tokenizer(["a"]), config=ProcessorConfig(image=ImageTransform(size=16)))
    return Run(model, processor, about={"recipe": "tiny"})
