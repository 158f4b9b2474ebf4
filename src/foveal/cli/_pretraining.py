"""How well a pretrained encoder does what it was pretrained for, on examples that it has not seen."""

import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foveal.cli import _classes
from foveal.core.errors import InputError
from foveal.core.example import Example

if TYPE_CHECKING:
    from foveal.core.types import Batch

TASKS = {"words": "words", "regions": "regions", "matching": "foreign"}  # heads, and the masking that each wants
PAIR = "pair"  # the head that tells which text belongs to which image
WRITE = "write"  # the head that writes a text beside its image
PAIRS = 500  # among so many, at most, a text is to find its image
Told = Callable[[str, int], Any]


def pretraining(
    run: Path | None, data: Path, *, split: str, limit: int | None, batch: int, progress: Told
) -> dict[str, dict[str, float]]:
    """For each task that the run has a head for: the mean loss and what needs no look at the example.

    `prior` is the loss of the frequencies of words, or of the mean of the regions, in these very examples. The
    `accuracy` of pairs is the share of captions that rank their own image first among all, and of images their caption:
    of 500 at most, and of `limit`. A run that reads pairs alone is scored on these in all its tasks. Raises InputError
    for a run that was not pretrained.
    """
    from foveal.cli._runs import open_run
    from foveal.data.format import read

    loaded = open_run(run)
    heads = getattr(loaded.model, "heads", {})
    tasks = [task for task in TASKS if task in heads]
    if not tasks and PAIR not in heads:
        names = ", ".join((*TASKS, PAIR))
        raise InputError(f"{run or 'starter'} has no head for {names}; it was not pretrained for these")
    every = _mixed(read(data, split=split))
    pairs = _captioned(every)[: min(limit or PAIRS, PAIRS)] if PAIR in heads else []
    found = _Found()
    if tasks:
        for made in _batches(loaded, pairs if WRITE in heads else every[:limit], tasks, batch, progress):
            _add(found, loaded.model, made, tasks)
    if WRITE in heads:
        _write(found, loaded, pairs, batch, progress)
    return {**found.told(), **({PAIR: _retrieval(loaded, pairs, batch, progress)} if len(pairs) > 1 else {})}


def _captioned(examples: Sequence[Example]) -> list[Example]:
    """One caption of each image."""
    captions = [one for one in examples if one.meta.get("kind") == "caption" and len(one.images) == 1]
    return list({one.images: one for one in captions}.values())


def _retrieval(loaded: Any, pairs: Sequence[Example], batch: int, progress: Told) -> dict[str, float]:
    """Every caption among all images, and every image among all captions."""
    from math import log

    import torch

    from foveal.preprocess.processor import Processor
    from foveal.training.objectives import contrastive

    own, model = loaded.processor, loaded.model
    processor = Processor(tokenizer=own.tokenizer, config=replace(own.config, masking=_nothing()), find=own.find)
    device, count = next(model.parameters()).device, len(pairs)
    vectors, keys = [], []
    with torch.inference_mode(), progress(PAIR, count) as advance:
        for start in range(0, count, batch):
            made = processor.training(pairs[start : start + batch], plan=model.plan).to(device)
            some, _ = contrastive.embed(model, made)
            images = torch.arange(start, start + len(some))  # slots are counted anew in every batch
            words = contrastive.fingerprint(made.input_ids, made.valid & (made.image_slot < 0)).cpu()
            vectors.append(some.cpu())
            keys.append(torch.stack([-images - 1, words], dim=1))
            advance(len(some))
        loss, _, parts = contrastive.compare(torch.cat(vectors), torch.cat(keys))
    right = float(parts["accuracy_pairs"][0]) / count
    return {"loss": float(loss) / count, "prior": log(count), "accuracy": right, "majority": 1 / count, "count": count}


def _nothing() -> Any:
    """Masking that hides nothing."""
    from foveal.preprocess.masking import Masking

    return Masking(words=0.0, regions=0.0, foreign=0.0)


def _write(found: "_Found", loaded: Any, pairs: Sequence[Example], batch: int, progress: Told) -> None:
    """Count what the model writes of one caption after the other: the next word, of those before it and the image."""
    import torch

    from foveal.preprocess.processor import Processor
    from foveal.training.objectives import next_token

    own, model, device = loaded.processor, loaded.model, next(loaded.model.parameters()).device
    processor = Processor(tokenizer=own.tokenizer, config=replace(own.config, masking=None), find=own.find)
    with torch.inference_mode(), progress(WRITE, len(pairs)) as advance:
        for start in range(0, len(pairs), batch):
            some = pairs[start : start + batch]
            made = processor.training(some, plan=model.plan).to(device)
            output = model(made, keep="labelled")
            found.add(WRITE, next_token.score(output, made)[0], output.logits, output.labels)
            advance(len(some))


def _mixed(examples: Sequence[Example]) -> list[Example]:
    """In an order that puts different images beside each other; the same each time."""
    import numpy as np

    order = np.random.default_rng(0).permutation(len(examples))
    return [examples[place] for place in order]


def _batches(
    loaded: Any, examples: Sequence[Example], tasks: Sequence[str], size: int, progress: Told
) -> Iterator["Batch"]:
    from foveal.preprocess.masking import Masking
    from foveal.preprocess.processor import Processor

    shares = {share: 0.0 for task, share in TASKS.items() if task not in tasks}
    masking = Masking(**shares)
    own = loaded.processor
    processor = Processor(tokenizer=own.tokenizer, config=replace(own.config, masking=masking), find=own.find)
    model, device = loaded.model, next(loaded.model.parameters()).device
    images = list(dict.fromkeys(image for example in examples for image in example.images))
    make = partial(processor.training, plan=model.plan)
    with tempfile.TemporaryDirectory() as folder:  # a picture is seen once, whatever is said about it
        kept = partial(_kept, Path(folder), images, device=device, progress=progress)
        visual = None if model.vision is None else kept("encoder", model.vision, processor.pixels)
        told = partial(_told, kept)
        known = _classes.of(loaded.about.get("classes"), processor, model.plan, see=told)
        for start in range(0, len(examples), size):
            some = examples[start : start + size]
            made = partial(make, some, seed=(start,))
            shown = visual or processor.pixels
            batch = made(visual=visual) if known is None else _classes.told(made, shown, known)
            yield batch.to(device)


def _told(kept: Callable[..., Any], teller: _classes.Teller) -> Any:
    return kept("teller", teller, teller.transform.pixels)


def _kept(
    folder: Path, images: Sequence[Any], name: str, encoder: Any, look: Any, *, device: Any, progress: Told
) -> Any:
    """What an encoder says of every image, in files of a folder."""
    from foveal.training.features import Store, fill

    store = Store(folder / name, "fp32")
    with progress("pictures", len(images)) as advance:
        fill(store, images, encoder=encoder, look=look, device=device, progress=advance)
    return store


class _Found:
    """Sums over batches."""

    def __init__(self) -> None:
        self.loss: dict[str, float] = defaultdict(float)
        self.right: dict[str, int] = defaultdict(int)
        self.count: dict[str, int] = defaultdict(int)
        self.classes: dict[str, Counter[int]] = defaultdict(Counter)
        self.regions: list[Any] = []
        self.target: Any = "feature"

    def add(self, task: str, loss: Any, said: Any, right: Any) -> None:
        """Count a batch's loss and what was `said`, `[N K]`, beside what is right."""
        self.loss[task] += float(loss)
        self.right[task] += int((said.argmax(-1) == right).sum())
        self.count[task] += len(right)
        self.classes[task].update(right.tolist())

    def told(self) -> dict[str, dict[str, float]]:
        """Means, and their priors."""
        return {task: self._task(task) for task in (*TASKS, WRITE) if self.count[task]}

    def _task(self, task: str) -> dict[str, float]:
        count, loss = self.count[task], self.loss[task] / self.count[task]
        if task == "regions":
            return {"loss": loss, "prior": self._region_prior(), "count": count}
        accuracy, counts = self.right[task] / count, self.classes[task]
        most = max(counts.values()) / count
        return {"loss": loss, "prior": _entropy(counts), "accuracy": accuracy, "majority": most, "count": count}

    def _region_prior(self) -> float:
        import torch

        from foveal.training.objectives import masked_regions as by_region

        every = torch.cat(self.regions)
        told = by_region.constant(every, self.target).expand_as(every)
        return float(by_region.apart(told, every, self.target).mean())


def _entropy(counts: Counter[int]) -> float:
    from math import log

    total = counts.total()
    return -sum(count / total * log(count / total) for count in counts.values())


def _add(found: _Found, model: Any, batch: "Batch", tasks: Sequence[str]) -> None:
    """Count what the model says of one batch."""
    import torch

    from foveal.core.types import IGNORE
    from foveal.training.objectives import masked_regions, masked_words, matching

    with torch.inference_mode():
        at: dict[str, Any] = {"words": masked_words.places(batch)} if "words" in tasks else {}
        seen = None
        if "regions" in tasks and batch.visual is not None:
            found.target = "feature" if model.config.heads["regions"].settings.labels is None else "classes"
            batch, seen = masked_regions.hidden(model, batch)
            at["regions"] = masked_regions.places(batch)
        told = model(batch, at={**at, **({"matching": None} if "matching" in tasks else {})}).heads
        scored: dict[str, tuple[Any, Any, Any]] = {}
        if "words" in tasks and batch.labels is not None:
            loss, _ = masked_words.score(told["words"], batch)
            scored["words"] = loss, told["words"], batch.labels[batch.labels != IGNORE]
        if "matching" in tasks:
            loss, *_ = matching.score(told["matching"], batch)
            scored["matching"] = loss, told["matching"], batch.targets["matching"]
        for task, (loss, said, right) in scored.items():
            found.add(task, loss, said, right)
        if seen is not None:
            loss, count, _ = masked_regions.score(told["regions"], batch, seen, target=found.target)
            found.loss["regions"] += float(loss)
            found.count["regions"] += count
            every = masked_regions.wanted(seen, found.target)
            found.regions.append(every[batch.image_slot[masked_regions.places(batch)]].cpu())
