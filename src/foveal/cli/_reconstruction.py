"""How well a run that is an image tokenizer makes pictures again that it has not seen."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foveal.core.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console

Told = Callable[[str, int], Any]  # a context manager that yields what counts finished pictures


def reconstructs(run: Path | None) -> bool:
    """Whether a run directory is that of an image tokenizer by itself."""
    from foveal.weights.directory import described

    return ((described(run) or {}).get("model") or {}).get("assembly") == "autoencoder"


def reconstruction(
    run: Path | None, data: Path, *, split: str, limit: int | None, batch: int, progress: Told
) -> dict[str, Any]:
    """PSNR in dB, the mean over the pictures of a data set, and which codes these took.

    Raises InputError for data without pictures, and for a run that was saved without a processor.
    """
    import torch

    from foveal.cli._runs import open_run
    from foveal.data.format import iterate
    from foveal.evaluation.reconstruction import psnr, usage

    loaded = open_run(run)
    if loaded.processor is None:
        raise InputError(f"{run} does not say which pictures it wants; give its config a processor")
    images = list(dict.fromkeys(image for example in iterate(data, split=split) for image in example.images))[:limit]
    if not images:
        raise InputError(f"{data} holds no pictures in its split {split!r}; give data that do, or --limit 1 or more")
    tokenizer, transform = loaded.model.vision, loaded.processor.transform
    found, codes = [], []
    with torch.inference_mode(), progress("pictures", len(images)) as advance:
        for start in range(0, len(images), batch):
            values = transform.pixels(images[start : start + batch]).values.to(tokenizer.codebook.weight.device)
            made = tokenizer.reconstruct(values)
            found.append(psnr(transform.levels(made.pixels.float()) / 255, transform.levels(values) / 255).cpu())
            codes.append(made.codes.flatten().cpu())
            advance(len(values))
    every, said = torch.cat(found), usage(torch.cat(codes), len(tokenizer.codebook.weight))
    return {
        "psnr": round(float(every.mean()), 4),
        "worst": round(float(every.min()), 4),
        "pictures": len(images),
        "codes_a_picture": sum(map(len, codes)) // len(images),
        "codes": said.codes,
        "used": said.used,
        "perplexity": round(said.perplexity, 2),
    }


def show(console: "Console", told: dict[str, Any]) -> None:
    """The same in three lines."""
    console.print(
        f"PSNR {told['psnr']:.2f} dB, the mean over {told['pictures']:,} pictures (worst {told['worst']:.2f})"
    )
    console.print(f"{told['codes_a_picture']:,} codes a picture; {told['used']:,} of {told['codes']:,} codes used")
    console.print(f"perplexity {told['perplexity']:.1f}: so many equally frequent codes would tell as much")
