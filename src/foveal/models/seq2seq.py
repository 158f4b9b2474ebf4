"""Where the rooms meet: an encoder that sees and a decoder that writes while it looks, layer by layer.

Such a model is a causal one whose layers read a memory: the same forward, checked to have something to look at.
"""

from foveal.core.errors import InputError
from foveal.models import causal
from foveal.models.causal import NEEDS as NEEDS
from foveal.models.causal import Causal
from foveal.models.config import ModelConfig


def assemble(config: ModelConfig) -> Causal:
    """A model with fresh weights. Raises InputError without sight, or where nothing fills or reads the memory."""
    if config.connector is None:
        raise InputError("a seq2seq model has nothing to look at; give it vision, or the width of its features")
    model = causal.assemble(config)
    if not getattr(model.language, "reads_memory", False):
        raise InputError(
            f"language {config.part('language').name!r} reads no memory, and a seq2seq model must; use sequence_decoder"
        )
    return model
