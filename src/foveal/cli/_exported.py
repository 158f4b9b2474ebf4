"""What `foveal export` does: graphs written, the rest of the run beside them, and both sides asked the same."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foveal.cli._placed import placed
from foveal.core.errors import InputError

TOLERANCE = 1e-3  # of the spread of the logits: what two engines round otherwise is a thousandth of it


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What is exported, for which engine, where to, and by what pictures and words it is tried."""

    run: Path | None
    engine: str
    out: Path
    images: tuple[str, ...]
    size: int
    prompt: str
    new: int

    def pictures(self) -> list[Any]:
        """The pictures, or two of noise."""
        from foveal.cli._benched import noise
        from foveal.cli.ask import picture

        return [picture(name) for name in self.images] or [noise(self.size, seed=seed) for seed in (0, 1)]


def export(wish: Wish) -> dict[str, Any]:
    """Write the exported run and try it beside what it was made from; returns what is told of both.

    Raises InputError for a run that does not go through graphs, and for a place that is taken.
    """
    from foveal.inference.sessions import check_engine

    check_engine(wish.engine, writes=True)
    with placed(wish.out) as made:
        return {"out": str(wish.out), **graphs(wish, opened(wish, dtype="float32"), made)}


def opened(wish: Wish, *, dtype: str | None) -> Any:
    """The model that is exported; raises InputError for one that writes nothing, or that is exported already."""
    import foveal
    from foveal.inference import exported

    loaded = foveal.load(wish.run or "starter", dtype=dtype, device="cpu")
    if not hasattr(loaded, "stream_answer") or exported.matches(Path(wish.run or "")):
        raise InputError(f"{wish.run} writes no answers, or is exported already; give a run that writes")
    if loaded.model.vision is None and wish.images:
        raise InputError(f"{len(wish.images)} images for a model without a vision encoder; leave --image out")
    return loaded


def graphs(wish: Wish, loaded: Any, folder: Path) -> dict[str, Any]:
    """Write a run whose heavy parts are graphs, and ask both sides the same; returns what is told of both."""
    import foveal
    from foveal.inference import exported
    from foveal.inference.engines import tensorrt
    from foveal.inference.pieces import check

    check(loaded.model)
    shown = [None] if loaded.model.vision is None else wish.pictures()
    batches = [prompted(loaded, wish.prompt, picture, room=wish.new) for picture in shown]
    told = exported.export(loaded, batches, folder, engine=wish.engine)
    files = {name: size(folder, graph["file"]) for name, graph in told["graphs"].items()}
    read = foveal.load(folder)
    asked = [*parity(wish, loaded, read)]
    by = read.model.head.by
    tried = {"tried": tensorrt.PROVIDER in by} if wish.engine == "tensorrt" else {}
    return {"engine": wish.engine, "bytes": files, "computed_by": by, **tried, "asked": asked}


def prompted(loaded: Any, text: str, picture: Any, *, room: int) -> Any:
    """The batch of a question, laid out for all tokens of its picture, with room for an answer."""
    from foveal.models.budget import unspent
    from foveal.preprocess.chat import listed, question

    example = question(listed(picture), text, marker=loaded.processor.config.marker)
    return loaded.processor.prompt([example], plan=unspent(loaded.model).plan, room=room)


def cases(wish: Wish, loaded: Any) -> Iterator[tuple[str, str, Any]]:
    """What both sides are asked: a name, the words, and a picture or None."""
    shown = wish.pictures() if loaded.model.vision is not None else []
    for name, picture in zip(wish.images or ("noise", "more noise"), shown, strict=False):
        yield name, wish.prompt, picture
    yield "no picture", "Name a colour.", None


def size(folder: Path, file: str) -> int:
    """Bytes of a graph, with the weights that lie beside it."""
    return sum(path.stat().st_size for path in folder.glob(f"{Path(file).stem}.*"))


def parity(wish: Wish, one: Any, other: Any) -> Iterator[dict[str, Any]]:
    """How far the logits of both sides are apart, and how many tokens they write alike, for several questions."""
    import torch

    from foveal.decode.generate import stream
    from foveal.models.budget import unspent

    for name, text, picture in cases(wish, one):
        batch, models = prompted(one, text, picture, room=wish.new), [unspent(side.model) for side in (one, other)]
        with torch.inference_mode():
            logits = [model(batch).logits.float() for model in models]
            told = [torch.stack([*stream(model, batch, max_new_tokens=wish.new)], dim=1) for model in models]
        apart = float((logits[0] - logits[1]).abs().max() / logits[0].std())
        yield {
            "asked": name,
            "difference": apart,
            "tokens": wish.new,
            "alike": int((told[0] == told[1]).sum()),
            "visual_tokens": int((batch.image_slot >= 0).sum()),
        }
