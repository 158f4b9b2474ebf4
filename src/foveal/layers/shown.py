"""What queries look at: the visual tokens of each image, normed and told where they lie."""

from jaxtyping import Bool, Float
from torch import Tensor, nn

from foveal.core.types import VisualTokens
from foveal.layers.images import by_image
from foveal.layers.places import Places


class Shown(nn.Module):
    """`features[S E]` to `[I M E]` and where there are any; `places` octaves tell each token's box (0: none do)."""

    def __init__(self, *, width: int, places: int = 0, norm: bool = False, eps: float = 1e-5) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=eps) if norm else nn.Identity()
        self.place = Places(width=width, octaves=places) if places else None

    def forward(self, visual: VisualTokens) -> tuple[Float[Tensor, "I M E"], Bool[Tensor, "I 1 1 M"] | None]:
        """Norm, add places, lay out image by image."""
        return by_image(self.tokens(visual), visual.layout)

    def tokens(self, visual: VisualTokens) -> Float[Tensor, "S E"]:
        """The same as they come, end to end."""
        features = self.norm(visual.features)
        return features if self.place is None else features + self.place(visual)
