"""What wrappers share that write no text: a model, the config that it came with, and the way back to a checkpoint."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from torch import Tensor, nn

from foveal.core.errors import InputError
from foveal.models.masked import Masked
from foveal.models.two_tower import TwoTower
from foveal.weights.files import write_checkpoint, write_json
from foveal.weights.names import Renaming


class Wrapper(nn.Module):
    """A model that is called with its reference's argument names; `names` lead back to the reference's."""

    model: Masked  # of most of them; one of another kind says so

    def __init__(self, model: Masked | TwoTower, config: Mapping[str, Any], names: Renaming) -> None:
        super().__init__()
        self.model, self.config, self.names = model, dict(config), names  # type: ignore[assignment]

    def answer(self, images: Any, text: str, **settings: Any) -> NoReturn:
        """Raises InputError: such a checkpoint is not asked in words."""
        raise InputError(
            f"a {type(self).__name__} checkpoint is called with its reference's arguments, not asked in words; ask a "
            "run that foveal train wrote, or a checkpoint that writes its answers"
        )

    def theirs(self) -> dict[str, Tensor]:
        """The weights as the reference names them."""
        return self.names.to_theirs(self.model.state_dict())

    def save_pretrained(self, directory: str | os.PathLike[str]) -> None:
        """Write a checkpoint that the reference loads: config.json and the weights under its names.

        Raises InputError where the disk refuses.
        """
        folder = Path(directory)
        write_checkpoint(folder, self.theirs())
        write_json(folder / "config.json", self.config)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """The same, as a directory that `foveal.load` reads back to bit-equal outputs: it stays the reference's."""
        self.save_pretrained(path)
        return Path(path)
