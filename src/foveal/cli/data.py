"""`foveal data`: make, check, picture and convert data sets."""

from pathlib import Path
from typing import Any

import typer

from foveal.core.errors import InputError

app = typer.Typer(help="Make, check, picture and convert data sets.", no_args_is_help=True)

JSON = typer.Option(False, "--json", help="Print one JSON object instead of a table.")
SPLIT = typer.Option("train", "--split", help="Which split, where PATH is a data set's directory.")


@app.command()
def scenes(
    out: Path = typer.Argument(help="The directory to make."),
    count: int = typer.Option(1000, "--count", help="Scenes in train, val and test (80/10/10); pairs come on top."),
    seed: int = typer.Option(0, "--seed", help="The same seed gives the same bytes."),
    size: str = typer.Option("224-1024", "--size", help="Pixels: 256 is a fixed square, 224-1024 is varied."),
    drawings: int = typer.Option(200, "--drawings", help="How many different drawings are in use."),
    words: int = typer.Option(100, "--words", help="How many different written words are in use."),
    choices: int = typer.Option(0, "--choices", help="Answers to pick from beside each question.", show_default="none"),
    detail: float = typer.Option(1.0, "--detail", help="Size of the tiny drawings and of the words, 0.1 to 1."),
    workers: int = typer.Option(0, "--workers", help="Processes; 0 is one for each core.", show_default=False),
    images: str = typer.Option("jpeg", "--images", help="How images are written: jpeg or png."),
    force: bool = typer.Option(False, "--force", help="Replace an older data set at OUT."),
    as_json: bool = JSON,
) -> None:
    """Make a starter data set: pictures composed from drawings and words, with captions, boxes and questions."""
    from foveal.cli._show import bar, console, print_json, table
    from foveal.core.machine import cores
    from foveal.data.drawings import ATTRIBUTION
    from foveal.data.generate import tasks, write_scenes
    from foveal.data.scenes import SceneConfig

    config = SceneConfig(
        seed=seed, size=parse_size(size), drawings=drawings, words=words, choices=choices, detail=detail
    )
    at = console(quiet=as_json)
    with bar(at, "scenes", sum(last - first for _, first, last in tasks(count, config))) as advance:
        made = write_scenes(
            out, config, count=count, workers=workers or cores(), codec=images, force=force,
            progress=advance,
        )  # fmt: skip
    if as_json:
        row = {"out": str(out), "scenes": made.scenes, "examples": made.examples, "seconds": round(made.seconds, 3)}
        print_json(row | {"scenes_per_second": round(made.rate, 1), "attribution": ATTRIBUTION})
        return
    lines = [[s, f"{made.scenes[s]:,}", f"{made.examples[s]:,}"] for s in made.scenes]
    at.print(table(["split", "scenes", "examples"], lines))
    each = 1000 * made.cpu_seconds / sum(made.scenes.values())
    at.print(f"{out}: {made.rate:.0f} scenes/s, {each:.1f} ms of one core each")
    at.print(ATTRIBUTION, style="dim")


@app.command()
def portraits(
    out: Path = typer.Argument(help="The directory to make."),
    count: int = typer.Option(1000, "--count", help="Portraits in train, val and test (80/10/10)."),
    seed: int = typer.Option(0, "--seed", help="The same seed gives the same bytes."),
    size: int = typer.Option(128, "--size", help="The side of a picture, in pixels."),
    kinds: str = typer.Option("", "--kinds", help="Drawings by name, with commas between.", show_default="ten"),
    force: bool = typer.Option(False, "--force", help="Replace an older data set at OUT."),
    as_json: bool = JSON,
) -> None:
    """Make pictures of one drawing each, with wishes for them and questions on them."""
    from foveal.cli._show import bar, console, print_json, table
    from foveal.data.portraits import KINDS, PortraitConfig, write_portraits

    chosen = tuple(name.strip() for name in kinds.split(",")) if kinds else KINDS
    config, at = PortraitConfig(seed=seed, size=size, kinds=chosen), console(quiet=as_json)
    with bar(at, "portraits", count) as advance:
        made = write_portraits(out, config, count=count, force=force, progress=advance)
    if as_json:
        print_json({"out": str(out), "portraits": made.scenes, "examples": made.examples})
        return
    lines = [[split, f"{made.scenes[split]:,}", f"{made.examples[split]:,}"] for split in made.scenes]
    at.print(table(["split", "portraits", "examples"], lines))


@app.command()
def motion(
    out: Path = typer.Argument(help="The directory to make."),
    count: int = typer.Option(1000, "--count", help="Videos in train, val and test (80/10/10)."),
    seed: int = typer.Option(0, "--seed", help="The same seed gives the same bytes."),
    size: int = typer.Option(256, "--size", help="The side of a frame, in pixels."),
    frames: int = typer.Option(2, "--frames", help="Frames of a video."),
    drawings: int = typer.Option(60, "--drawings", help="How many different drawings are in use."),
    workers: int = typer.Option(0, "--workers", help="Processes; 0 is one for each core.", show_default=False),
    force: bool = typer.Option(False, "--force", help="Replace an older data set at OUT."),
    as_json: bool = JSON,
) -> None:
    """Make videos of drawings, one of which moves, with questions on what moved and where to."""
    from foveal.cli._show import bar, console, print_json, table
    from foveal.core.machine import cores
    from foveal.data.motion import MotionConfig, write_motion

    config = MotionConfig(seed=seed, size=size, frames=frames, drawings=drawings)
    at = console(quiet=as_json)
    with bar(at, "videos", count) as advance:
        made = write_motion(out, config, count=count, workers=workers or cores(), force=force, progress=advance)
    if as_json:
        row = {"out": str(out), "videos": made.scenes, "examples": made.examples, "seconds": round(made.seconds, 3)}
        print_json(row | {"videos_per_second": round(made.rate, 1)})
        return
    lines = [[split, f"{made.scenes[split]:,}", f"{made.examples[split]:,}"] for split in made.scenes]
    at.print(table(["split", "videos", "examples"], lines))


@app.command()
def inspect(
    path: Path = typer.Argument(help="A data set's directory, or one .jsonl file."),
    as_json: bool = JSON,
) -> None:
    """Check every line, and show what the data set holds: kinds, answers, image sizes, what guessing earns."""
    from foveal.cli._show import bar, console, print_json, table
    from foveal.data.places import locate, splits
    from foveal.data.statistics import summary
    from foveal.data.thorough import thorough

    at, names = console(quiet=as_json), sorted(splits(path), key=_rank) if path.is_dir() else []
    files = {name: locate(path, name) for name in names} or {path.stem: locate(path)}
    found: dict[str, dict[str, Any]] = {}
    for name, file in files.items():
        repeated: dict[str, str] = {}
        with bar(at, name, None) as advance:
            found[name] = summary(
                thorough(path, split=name, repeated=repeated, progress=lambda _, advance=advance: advance(1))
            )
        if not found[name]["examples"] and (name == "train" or not names):
            raise InputError(f"{file} holds no examples; write one a line, such as `foveal data scenes` does")
        found[name] |= {"repeated_ids": repeated} if repeated else {}
    if as_json:
        print_json({"path": str(path), "splits": found})
        return
    for name, row in found.items():
        sizes = ", ".join(f"{side} {low}-{high} px" for side, (low, _, high) in row["sizes"].items())
        films = f" ({row['videos']:,} of them videos)" if "videos" in row else ""
        at.print(f"\n{name}: {row['examples']:,} examples, {row['images']:,} images{films} {sizes}")
        for where, repeat in list(row.get("repeated_ids", {}).items())[:1]:
            count = len(row["repeated_ids"])
            at.print(f"{count:,} ids stand here again, the first is {repeat!r} in {where}")
        lines = [
            [kind, f"{k['count']:,}", f"{k['answers']:,}", f"{100 * k['majority']:.1f}%", _short(k["answer"])]
            for kind, k in row["kinds"].items()
        ]
        if lines:
            at.print(table(["kind", "examples", "answers", "majority", "most frequent"], lines, left=["most frequent"]))


@app.command()
def preview(
    path: Path = typer.Argument(help="A data set's directory, or one .jsonl file."),
    out: Path = typer.Argument(help="The sheet to write: a .png or an .html file."),
    split: str = SPLIT,
    count: int = typer.Option(8, "--count", help="How many scenes."),
    kind: str = typer.Option("", "--kind", help="Only questions of this kind."),
) -> None:
    """Picture a data set: a sheet of scenes with their boxes, questions and answers."""
    from itertools import islice

    from foveal.cli._show import console
    from foveal.core.errors import unknown
    from foveal.data.format import grouped, iterate
    from foveal.data.preview import write_preview

    if count < 1:
        raise InputError(f"{count} scenes asked for; give --count 1 or more")
    examples = list(islice(iterate(path, split=split), 40 * count))
    kinds = {str(e.meta.get("kind", "all")) for e in examples}
    if kind and kind not in kinds:
        raise unknown("kind of question", kind, kinds)
    shown = grouped(e for e in examples if not kind or e.meta.get("kind", "all") == kind)[:count]
    credit = path / "ATTRIBUTION.txt"
    line = credit.read_text().split("(https")[0].strip(" ,\n") + ", CC BY-SA 4.0." if credit.is_file() else ""
    write_preview(shown, out, title=f"{path.name} / {split}", credit=line)
    console().print(f"{out}: {len(shown)} scenes")


@app.command()
def convert(
    source: Path = typer.Argument(help="The published file, or the folder that holds it as it is published."),
    out: Path = typer.Argument(help="The data set's directory."),
    layout: str = typer.Option(
        ...,
        "--from",
        help="chartqa, coco-captions, coco-detection, docvqa, gqa, llava, pope, refcoco, textvqa or vqav2.",
    ),
    images: Path | None = typer.Option(None, "--images", help="The folder of images, where it is not beside SOURCE."),
    split: str = SPLIT,
    copy: bool = typer.Option(False, "--copy", help="Copy the images into OUT."),
    force: bool = typer.Option(False, "--force", help="Replace an older split."),
    as_json: bool = JSON,
) -> None:
    """Convert a published layout to ours; the images stay where they are, or are copied.

    Of a folder --split says which of its files; pope has no splits and refcoco several in one file.
    """
    from foveal.cli._show import bar, console, print_json
    from foveal.data.convert import convert as change

    at = console(quiet=as_json)
    with bar(at, "examples", None) as advance:
        number = change(
            source, out, layout, images=images, split=split, copy=copy, force=force, progress=lambda _: advance(1)
        )
    if as_json:
        print_json({"out": str(out / f"{split}.jsonl"), "examples": number})
    else:
        at.print(f"{out / f'{split}.jsonl'}: {number:,} examples")


@app.command()
def coco(
    path: Path = typer.Argument(help="A data set's directory, or one .jsonl file."),
    out: Path = typer.Argument(help="The annotation file to write, such as instances_test.json."),
    split: str = SPLIT,
    as_json: bool = JSON,
) -> None:
    """Write a data set's boxes, outlines and keypoints as a COCO annotation file; images stay where they are.

    Drawings of starter scenes have outlines and five keypoints, as their ink has them.
    """
    from foveal.cli._detection import annotations, pictures_of, write
    from foveal.cli._show import console, print_json

    made = annotations(pictures_of(path, split), root=out.parent)
    write(out, made)
    counts = {key: len(made[key]) for key in ("images", "annotations", "categories")}
    if as_json:
        print_json({"out": str(out), **counts})
    else:
        told = ", ".join(f"{count:,} {key}" for key, count in counts.items())
        console().print(f"{out}: {told}")


def parse_size(text: str) -> int | tuple[int, int]:
    """`256` or `224-1024` as numbers; InputError otherwise."""
    parts = text.split("-")
    if len(parts) > 2 or not all(part.isascii() and part.isdigit() for part in parts):
        raise InputError(f"size {text!r} is neither a number of pixels such as 256 nor a range such as 224-1024")
    return int(parts[0]) if len(parts) == 1 else (int(parts[0]), int(parts[1]))


def _rank(split: str) -> int:
    known = ("train", "val", "test", "pairs")
    return known.index(split) if split in known else len(known)


def _short(text: str) -> str:
    return text if len(text) <= 40 else text[:37] + "..."
