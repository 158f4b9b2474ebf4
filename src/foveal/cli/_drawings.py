"""Whether what a run draws is what it was asked for, as a classifier says that never saw the run's own pictures."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foveal.core.errors import InputError
from foveal.data.portraits import PortraitConfig

if TYPE_CHECKING:
    from PIL.Image import Image
    from rich.console import Console
    from torch import Tensor

    from foveal.evaluation.questions import Question

Told = Callable[[str, int], Any]  # a context manager that yields what counts finished pictures
PORTRAITS, OTHERS = 60, 3  # that the classifier learns from: of each kind, and so many kinds' worth of other drawings
APART = 1_000_000  # between the seeds of the data and of the portraits that the classifier learns from
OTHER = "something else"
COLUMNS, EDGE = 20, 128  # of the sheet: pictures in a row, and pixels of each one's side


def drawings(
    run: Path | None,
    data: Path,
    *,
    split: str,
    count: int,
    batch: int,
    sampling: Any,
    seed: int,
    sheet: Path | None,
    progress: Told,
) -> dict[str, Any]:
    """The share of `count` wishes of a set of portraits whose drawing is recognised, in all and by kind.

    Beside it: how often the same classifier is right on the set's own pictures of these, and on those through the
    run's tokenizer. Drawings are written to `sheet` where that is wanted. Raises InputError for data that are no
    portraits and a run that does not draw.
    """
    import torch

    from foveal.cli._runs import open_run
    from foveal.data.format import iterate
    from foveal.evaluation.compare import compare, plain
    from foveal.evaluation.wishes import wishes

    if count < 1:
        raise InputError(f"--drawings {count} leaves nothing to draw; give 1 or more")
    config, loaded = portraits_of(data), open_run(run)
    asked = wishes(iterate(data, split=split), limit=count)
    torch.manual_seed(seed)
    made: list[Image] = []
    with progress("drawings", len(asked)) as advance:
        for start in range(0, len(asked), batch):
            some = asked[start : start + batch]
            made += loaded.draw([question.text for question in some], sampling=sampling)
            advance(len(some))
    judge = Judge(config, apart_from=_seeds(config, loaded.about), progress=progress)
    said = judge(made)
    if sheet is not None:
        write_sheet(sheet, made, asked, said)
    found = plain(compare(asked, said, {}))
    return {
        "recognised": found["exact_match"],
        "interval": found["interval"],
        "drawings": len(asked),
        "kinds": {kind: row["accuracy"] for kind, row in found["kinds"].items()},
        "classifier": {**judge.about, **_bounds(judge, asked, loaded)},
    }


def portraits_of(data: Path) -> PortraitConfig:
    """What a data set's portraits are made of. Raises InputError for data of another kind."""
    from foveal.core.config import parse
    from foveal.data.generate import noted

    told = noted(data)
    if told.get("made_by") != "foveal data portraits":
        raise InputError(
            f"{data} holds no portraits, whose drawings a classifier could learn; make some: foveal data portraits"
        )
    return parse(PortraitConfig, told["config"], where=f"the config of {data}")


def _seeds(config: PortraitConfig, about: Any) -> tuple[int, ...]:
    """The seeds of the pictures that the run is asked about, and of those that it learned from."""
    learned = ((about.get("data") or {}).get("portraits") or {}).get("seed")
    return (config.seed,) if learned is None else (config.seed, learned)


class Judge:
    """Names pictures: a linear classifier over frozen ImageNet features, which learns from portraits of its own.

    Their seed, and so their places, sizes and grounds, are others than those of `apart_from`; drawings of other things
    are among them, so that a picture may be none of the kinds.
    """

    def __init__(self, config: PortraitConfig, *, apart_from: Sequence[int], progress: Told) -> None:
        from foveal.core.lookup import build, spec
        from foveal.data.drawings import NAMES
        from foveal.data.portraits import portrait
        from foveal.evaluation.probe import probe
        from foveal.weights.efficientnet_lite import pretrained

        self.vision = build("vision", spec("vision", {"name": "efficientnet_lite", "variant": 2, "taps": [16, 32]}))
        self.vision.load_state_dict(pretrained(2))
        self.size = config.size
        own = replace(config, seed=max(apart_from) + APART)
        rest = replace(own, kinds=tuple(name for name in NAMES if name not in config.kinds))
        counts = {own: PORTRAITS * len(config.kinds), rest: PORTRAITS * OTHERS}
        self.about = {"seed": own.seed, "portraits": sum(counts.values())}
        shown = [(one, portrait(one, number)) for one, count in counts.items() for number in range(count)]
        names = [found.name if one is own else OTHER for one, found in shown]
        self.probe = probe(self.features([found.image for _, found in shown], progress), names)

    def features(self, pictures: Sequence["Image"], progress: Told) -> "Tensor":
        """The mean of each picture's features, `[N E]`."""
        import torch

        from foveal.preprocess.transform import ImageTransform
        from foveal.vision.efficientnet_lite import MEAN, STD

        transform = replace(ImageTransform(size=self.size), mean=MEAN, std=STD)
        found = []
        with torch.inference_mode(), progress("classifier", len(pictures)) as advance:
            for start in range(0, len(pictures), 32):
                seen = self.vision(transform.pixels(pictures[start : start + 32]))
                found.append(seen.features.unflatten(0, (-1, seen.layout.counts[0])).mean(1))
                advance(len(found[-1]))
        return torch.cat(found).clone()  # a tensor made for inference alone could not be learned from

    def __call__(self, pictures: Sequence["Image"]) -> list[str]:
        """What each shows: one of the kinds, or something else."""
        from contextlib import nullcontext

        return self.probe(self.features(pictures, lambda what, total: nullcontext(lambda number: None)))


def _bounds(judge: Judge, asked: Sequence["Question"], loaded: Any) -> dict[str, float]:
    """How often the classifier is right on the true pictures, as they are and through the run's codes."""
    import torch

    from foveal.preprocess.image import open_image

    transform, tokenizer = loaded.processor.transform, loaded.model.vision
    true = [open_image(question.example.images[0]) for question in asked]
    again: list[Image] = []
    with torch.inference_mode():
        for one in true:
            values = transform.pixels([one]).values.to(tokenizer.codebook.weight.device)
            again.append(transform.picture(tokenizer.decode(tokenizer.encode(values))[0]))
    names = [question.truth for question in asked]
    right = partial(_share, names)
    return {"true_pictures": right(judge(true)), "through_codes": right(judge(again))}


def _share(names: Sequence[str], said: Sequence[str]) -> float:
    return round(sum(name == told for name, told in zip(names, said, strict=True)) / len(names), 6)


def write_sheet(out: Path, made: Sequence["Image"], asked: Sequence["Question"], said: Sequence[str]) -> None:
    """Every drawing with its wish and, where it is taken for something else, for what; InputError for no such place."""
    from foveal.data.preview import labelled, tiled

    cards = []
    for picture, question, told in zip(made, asked, said, strict=True):
        right = told == question.truth
        shown = picture.resize((EDGE, EDGE))
        cards.append(labelled(shown, [(question.truth, "#444444"), ("" if right else told, "#c81e1e")]))
    try:
        tiled(cards, columns=COLUMNS).save(out)
    except (OSError, ValueError) as error:
        raise InputError(f"cannot write {out}: {error}; name a file that ends in .png or .jpg") from None


def show(console: "Console", told: dict[str, Any]) -> None:
    """The table of the kinds, and what the classifier is worth."""
    from foveal.cli import _show

    lines = [[kind, f"{100 * share:.1f}%"] for kind, share in sorted(told["kinds"].items(), key=lambda one: -one[1])]
    console.print(_show.table(["asked for", "recognised"], lines))
    low, high = told["interval"]
    judge = told["classifier"]
    console.print(
        f"\n{100 * told['recognised']:.1f}% of {told['drawings']:,} drawings recognised "
        f"(95%: {100 * low:.1f} to {100 * high:.1f})"
    )
    console.print(
        f"the classifier learned from {judge['portraits']:,} other portraits; of the true pictures it recognises "
        f"{100 * judge['true_pictures']:.1f}%, through the run's codes {100 * judge['through_codes']:.1f}%",
        style="dim",
    )
