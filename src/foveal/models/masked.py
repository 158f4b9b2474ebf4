"""Where the rooms meet: a model that reads words and sight in both directions, under one or several heads."""

from jaxtyping import Int
from torch import Tensor, nn

from foveal.core.errors import InputError
from foveal.core.interfaces import Connector, Fusion, LanguageModel, VisionEncoder
from foveal.core.lookup import build
from foveal.core.types import Batch, Output
from foveal.models.config import ModelConfig
from foveal.models.parts import Sight, flow, sight, unfilled


class Masked(Sight):
    """Vision encoder, connector, fusion, language encoder and heads, in that order."""

    def __init__(
        self,
        *,
        config: ModelConfig,
        language: LanguageModel,
        fusion: Fusion,
        heads: dict[str, nn.Module],
        vision: VisionEncoder | None = None,
        connector: Connector | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.vision, self.connector = vision, connector
        self.language, self.fusion, self.heads = language, fusion, nn.ModuleDict(heads)

    def forward(self, batch: Batch, *, keep_hidden: bool = False) -> Output:
        """What every head says, by its name; `logits` are those of the first.

        `keep_hidden` also returns the input of every layer and the final state.
        """
        visual = self.see(batch)
        stream = self.fusion.at_input(self.language.open(batch), visual)
        stream, states = flow(stream, language=self.language, fusion=self.fusion, keep_hidden=keep_hidden)
        hidden = self.language.norm(stream.hidden)
        told = {name: head(hidden) for name, head in self.heads.items()}
        return Output(
            logits=next(iter(told.values())),
            heads=told,
            hidden_states=(*states, hidden) if keep_hidden else None,
            visual=visual,
        )

    def choose(self, batch: Batch) -> Int[Tensor, " B"]:
        """The best class of the head `answer` for each row; raises InputError where there is no such head."""
        told = self(batch).heads
        if "answer" not in told:
            raise InputError(f"this model has the heads {', '.join(told)} and none for answers; train one as 'answer'")
        return told["answer"].argmax(-1)


def assemble(config: ModelConfig) -> Masked:
    """A model with fresh weights; widths meet here. Raises InputError where parts do not fit."""
    if not config.heads:
        raise InputError("a masked model has no heads; name at least one under 'heads'")
    language = build("language", config.language)
    fusion = build("fusion", config.fusion, width=language.width, depth=language.depth)
    table = language.embedding.weight
    heads = {
        name: build("heads", head, width=language.width, vocabulary=language.vocabulary, table=table)
        for name, head in config.heads.items()
    }
    vision, connector = sight(config, width=language.width)
    return Masked(config=config, language=language, fusion=fusion, heads=heads, vision=vision, connector=connector)


def empty(config: ModelConfig) -> Masked:
    """A model whose weights take no memory yet, for loading a checkpoint into."""
    return unfilled(assemble, config)
