"""Scoring a run beside its baselines: what `foveal eval` and comparisons share."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from foveal.cli._runs import open_run
from foveal.core.errors import InputError
from foveal.core.example import Example
from foveal.evaluation.baselines import Majority
from foveal.evaluation.compare import Compared, compare, plain
from foveal.evaluation.questions import Question, blind, questions
from foveal.evaluation.run import answers
from foveal.evaluation.shots import with_shots
from foveal.relevance.pricing import Terms
from foveal.training.config import check_seed

MOST = 20_000  # questions of the training split that the majority is taken from
Told = Callable[[str, int], Any]  # a context manager that yields what counts finished questions


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Questions, the model's answers to them, and how it compares."""

    asked: Sequence[Question]
    answers: Sequence[str]
    compared: Compared
    majority_from: str
    seconds: float
    about: dict[str, Any]

    def plain(self) -> dict[str, Any]:
        """As JSON tells it."""
        return plain(self.compared) | {"majority_from": self.majority_from, "seconds": round(self.seconds, 3)}


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What to score, on what, and how."""

    run: Path | None
    data: Path
    split: str = "test"
    limit: int | None = None
    text_only: Path | None = None
    batch: int = 64
    max_new_tokens: int = 32
    shots: int = 0
    seed: int = 0
    budget: int | Terms | None = None
    strategy: str = "foveal"
    settings: Mapping[str, Any] = field(default_factory=dict)  # of the strategy
    draws: int = 1
    controls: bool = False

    def __post_init__(self) -> None:
        check_seed("--seed", self.seed)


def evaluate(wanted: Wanted, *, progress: Told) -> Evaluation:
    """Ask a run every question, and its text-only twin where there is one. Raises InputError for bad input."""
    loaded = open_run(wanted.run)
    asked = asked_of(loaded, wanted)
    training, source = training_questions(wanted.data, wanted.split)
    training = tuple(training)
    majority = Majority.of(training if source else asked)
    posed = _with_shots(asked, training, loaded, wanted)
    twin = text_only_run(wanted)
    started = time.perf_counter()
    said = ask(loaded, posed, wanted, progress, "questions")
    seconds = time.perf_counter() - started
    others = {
        "text_only": ask(open_run(twin), blind(posed), wanted, progress, "without images") if twin else None,
        "majority": majority.answers(asked),
        "question_majority": majority.answers_by_question(asked),
    }
    return Evaluation(
        asked=asked,
        answers=said,
        compared=compare(asked, said, others),
        majority_from=source or f"the {wanted.split} questions themselves",
        seconds=seconds,
        about={**getattr(loaded, "about", {}), "parameters": sizes(loaded.model)},
    )


def asked_of(loaded: Any, wanted: Wanted) -> tuple[Question, ...]:
    """The questions of the data that the run can be asked, as many as are wanted; takes the errors of `fit`."""
    from foveal.data.format import iterate

    picks = loaded.processor.config.choices
    return questions(fit(iterate(wanted.data, split=wanted.split), picks), limit=_limit(wanted.limit))


def fit(examples: Iterable[Example], picks: int) -> Iterator[Example]:
    """What can be asked of a run: where it picks among choices, what has some.

    Raises InputError where nothing has.
    """
    none = True
    for example in examples:
        if example.choices or not picks:
            none = False
            yield example
    if none and picks:
        raise InputError(
            f"this run picks among {picks} choices and the data hold no question with some; give examples 'choices' in "
            f"their 'meta', or make data that have: foveal data scenes OUT --choices {picks}"
        )


def _with_shots(
    asked: Sequence[Question], training: Sequence[Question], loaded: Any, wanted: Wanted
) -> Sequence[Question]:
    """The questions with solved ones before them. Raises InputError for a run that cannot read such."""
    from foveal.decode.choose import Chooser

    if wanted.shots and isinstance(loaded.model, Chooser):
        raise InputError(f"--shots {wanted.shots}: this run chooses its answers and reads one question; leave it out")
    if wanted.shots and not training:
        raise InputError(
            f"--shots {wanted.shots}: solved questions come from a train.jsonl beside what is scored, and there is none"
        )
    return with_shots(asked, training, wanted.shots, seed=wanted.seed)


def sizes(model: Any) -> str:
    """How many parameters each part has, in words; weights that parts share are counted once."""
    counts: dict[str, int] = {}
    for name, weight in model.named_parameters():
        part = name.partition(".")[0]
        counts[part] = counts.get(part, 0) + weight.numel()
    parts = ", ".join(f"{part} {count / 1e6:.2f}M" for part, count in counts.items())
    return f"{sum(counts.values()) / 1e6:.1f}M ({parts})"


def ask(
    loaded: Any,
    asked: Sequence[Question],
    wanted: Wanted,
    progress: Told,
    what: str,
    visual: Any = None,
    *,
    steering: Sequence[Example | None] | None = None,
    sampling: Callable[..., Any] | None = None,
    told: Callable[[Any], None] = lambda seen: None,
) -> list[str]:
    """A loaded model's answers; a model without sight is asked without pictures.

    `visual` gives what its encoder said of pictures already; None: a steered one has each of them encoded once.
    `steering` is as in `answers`, and `sampling` writes in the place of the best tokens.
    Where what pictures cost depends on what they hold, `told` hears what is left of those of each batch.
    """
    from foveal.decode.choose import Chooser, places
    from foveal.decode.sampling import greedy
    from foveal.decode.shared import generate_shared
    from foveal.models import seats
    from foveal.models.budget import allocator_of, bound, budgeted, unspent
    from foveal.preprocess.choices import named

    view = budgeted(loaded.model, wanted.budget, wanted.strategy, **wanted.settings)
    image = loaded.processor.config.image
    if wanted.budget is None and image.tiling is None and view.vision is not None:
        view = bound(view, [image.grid])  # rows then share what they read of a picture
    model = unspent(view) if isinstance(wanted.budget, Terms) else view
    writes: Any = places if isinstance(model, Chooser) else partial(generate_shared, sampling=sampling or greedy)
    if isinstance(wanted.budget, Terms):
        writes = _laid_out(writes, view, wanted.budget, told)
    spender = allocator_of(view)
    steered = getattr(view, "steered", False)
    visual = gallery_of(loaded, seats.needs(spender)) if steered and visual is None else visual
    if loaded.model.vision is None and loaded.model.connector is None:
        asked = blind(asked)
    if loaded.processor.config.choices:
        asked = [replace(one, example=named(one.example, f"example {one.example.id!r}")) for one in asked]
    with progress(what, len(asked)) as advance:
        return answers(
            asked,
            model=model,
            processor=loaded.processor,
            shared=not steered,
            visual=None if seats.acts_before(spender) else visual,
            steering=steering,
            generate=writes,
            batch_size=-(-wanted.batch // (1 + wanted.shots)),  # as many images at a time
            max_new_tokens=wanted.max_new_tokens,
            progress=advance,
        )


def _laid_out(write: Any, view: Any, terms: Terms, told: Callable[[Any], None]) -> Any:
    """The same writing, of batches that are laid out anew for what their pictures are worth."""

    def written(model: Any, batch: Any, **settings: Any) -> Any:
        batch = batch if batch.visual is None else view.spent(batch, budget=terms)
        if batch.seen is not None:
            told(batch.seen)
        return write(model, batch, **settings)

    return written


def gallery_of(loaded: Any, needs: tuple[str, ...] = ()) -> Any:
    """What encodes each picture once for all that is asked of it; None where nothing is encoded."""
    from foveal.models.gallery import Gallery

    if loaded.model.vision is None or loaded.processor.config.region_files is not None:
        return None
    return Gallery(loaded.model, loaded.processor, needs=needs)


def text_only_run(wanted: Wanted) -> Path | None:
    """The run trained without images: the one named, else the `text_only` directory within the run."""
    from foveal.weights.directory import is_run
    from foveal.weights.packaged import starter

    if wanted.text_only is not None:
        return wanted.text_only
    inside = (wanted.run or starter()) / "text_only"
    return inside if is_run(inside) else None


def training_questions(data: Path, split: str) -> tuple[Iterator[Question] | Sequence[Question], str]:
    """Questions of the training split beside what is scored, and what to call them; nothing where there is none."""
    from foveal.data.format import iterate

    file = (data if data.is_dir() else data.parent) / "train.jsonl"
    if not file.is_file() or split == "train" or file == data:
        return (), ""
    return questions(iterate(file), limit=MOST), f"the first {MOST:,} training questions"


def _limit(limit: int | None) -> int | None:
    if limit is not None and limit < 1:
        raise InputError(f"--limit {limit} leaves no question; give 1 or more")
    return limit
