"""The report of a run: what its directory and its evaluation know, on one page."""

import io
import json
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from foveal.cli import _regions
from foveal.cli._evaluate import Evaluation
from foveal.core.errors import InputError
from foveal.evaluation.questions import Question
from foveal.evaluation.report import Picture, Reply, Report, page
from foveal.evaluation.score import is_right

PICTURES, REPLIES, EDGE = 12, 3, 480  # on the page: pictures, questions to each, pixels of a picture's longer side


def write(
    out: Path,
    found: Evaluation,
    *,
    run: Path | None,
    data: Path,
    split: str,
) -> Path:
    """Write the page for a scored run; InputError where the file cannot be written."""
    compared, named = found.compared, {}
    about = f"{len(found.asked):,} questions about {compared.scenes:,} pictures that it never saw."
    if _regions.source(run) == "oracle":
        about, named = f"{about} Oracle: {_regions.BOUND}.", {"ours": "oracle"}
    report = Report(
        title=f"{run.resolve().name if run else 'The starter model'}, asked about what it sees",
        summary=about,
        scores=compared.scores,
        baselines=compared.baselines,
        leads=compared.leads,
        losses=losses(run) if run else {},
        pictures=pictures(found.asked, found.answers),
        made=described(found, data, split),
        attribution=attribution(data),
        **named,
    )
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(page(report), encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot write the report {out} ({error.strerror}); choose another place") from None
    return out


def losses(run: Path) -> dict[str, list[tuple[int, float]]]:
    """Step and loss of every record in a run's log, stage by stage; nothing for a run without a log."""
    file = run / "log.jsonl"
    stages: dict[str, list[tuple[int, float]]] = {}
    for line in file.read_text(encoding="utf-8").splitlines() if file.is_file() else ():
        row = json.loads(line)
        stages.setdefault(row["stage"], []).append((row["step"], float(row["loss"])))
    return stages


def pictures(asked: Sequence[Question], answers: Sequence[str]) -> list[Picture]:
    """Scenes evenly from first to last, and of each some questions of different kinds: taken as they come."""
    scenes: dict[str, list[int]] = {}
    for row, question in enumerate(asked):
        if question.example.images:
            scenes.setdefault(question.scene, []).append(row)
    names = list(scenes)
    chosen = names if len(names) <= PICTURES else [names[i * len(names) // PICTURES] for i in range(PICTURES)]
    return [_picture(asked, answers, _mixed(asked, scenes[name], turn)) for turn, name in enumerate(chosen)]


def _mixed(asked: Sequence[Question], rows: Sequence[int], turn: int) -> list[int]:
    """Some rows, one a kind while kinds last, beginning at another kind for each picture."""
    kinds: dict[str, int] = {}
    for row in rows:
        kinds.setdefault(asked[row].kind, row)
    first = list(kinds.values())
    start = turn * REPLIES % len(first)
    mixed = dict.fromkeys([*first[start:], *first[:start], *rows])
    return list(islice(mixed, REPLIES))


def _picture(asked: Sequence[Question], answers: Sequence[str], rows: Sequence[int]) -> Picture:
    from foveal.data.media import strip

    example = asked[rows[0]].example
    image = strip(example.images[0])
    image.thumbnail((EDGE, EDGE))
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=86, optimize=True)
    labels = ", ".join(dict.fromkeys(box.label for box in example.boxes))
    replies = tuple(
        Reply(
            question=asked[row].text,
            answer=answers[row],
            truth=asked[row].truth,
            right=is_right(asked[row], answers[row]),
        )
        for row in rows
    )
    return Picture(jpeg=stream.getvalue(), about=f"A picture of {labels}" if labels else "A picture", replies=replies)


def described(found: Evaluation, data: Path, split: str) -> dict[str, str]:
    """How it was made, as far as the run and the data tell, and where it was scored."""
    folder = data if data.is_dir() else data.parent
    about = folder / "dataset.json"
    known = json.loads(about.read_text(encoding="utf-8")) if about.is_file() else {}
    held = f"{data.name}, split {split}"
    if "config" in known:
        held += f": {known['made_by']}, {known['count']:,} scenes, {_words(known['config'])}"
    scored = f"{len(found.asked):,} questions in {found.seconds:.1f} s; majority: of {found.majority_from}"
    return {**trained(found.about), "data": held, "scored": scored, "hardware": hardware()}


def trained(about: Mapping[str, Any]) -> dict[str, str]:
    """What a run's record says of its training, in words."""
    rows = {name: _words(about[name]) for name in ("recipe", "system", "parameters", "seed", "foveal") if name in about}
    if about.get("steps"):
        stages = "; ".join(f"{stage['name']}: {', '.join(stage['train'])}" for stage in about.get("stages", ()))
        rows["trained"] = f"{about['steps']:,} steps in {about['seconds']:,.0f} s ({stages})"
        rows["examples"] = f"{about.get('examples', 0):,}"
    if about.get("init"):
        rows["began with"] = _words(about["init"])
    return rows


def attribution(data: Path) -> str:
    """What the data's own attribution says, or nothing."""
    file = (data if data.is_dir() else data.parent) / "ATTRIBUTION.txt"
    return file.read_text(encoding="utf-8").strip() if file.is_file() else ""


def hardware() -> str:
    """Processor, cores in use, accelerator and torch, in words."""
    import platform

    import torch

    from foveal.core.machine import cores

    name = platform.processor() or platform.machine()
    known = Path("/proc/cpuinfo")
    if known.is_file():
        lines = known.read_text(encoding="utf-8", errors="replace").splitlines()
        name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), name)
    parts = [f"{name}, {cores()} cores"]
    parts += [torch.cuda.get_device_name()] if torch.cuda.is_available() else []
    return "; ".join([*parts, f"torch {torch.__version__}"])


def _words(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_words(entry)}" for name, entry in value.items())
    if isinstance(value, list | tuple):
        return "-".join(_words(entry) for entry in value)
    return f"{value:,.4g}" if isinstance(value, float) else str(value)
