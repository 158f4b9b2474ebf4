"""A recipe carried out: data, model and batches handed to the training loop, and the run saved."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from copy import copy
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zlib import crc32

from foveal.cli import _classes, _detection, _needs
from foveal.cli._alone import alone
from foveal.cli._examples import data_folder, examples, paths
from foveal.cli._model import model_of
from foveal.cli._objectives import check_blind, masking, wants
from foveal.cli._recipe import Recipe
from foveal.core.config import dump, parse
from foveal.core.errors import InputError
from foveal.core.example import Example
from foveal.training.config import Stage

if TYPE_CHECKING:
    from foveal.cli._looks import Looks
    from foveal.core.types import Batch, Layout
    from foveal.preprocess.processor import Processor
    from foveal.preprocess.tiling import Tiling
    from foveal.training.config import Features
    from foveal.training.features import Store
    from foveal.training.feed import Collate
    from foveal.weights.run import Run


def carry_out(
    recipe: Recipe,
    out: Path,
    *,
    fresh: bool,
    say: Callable[[str], None],
    bar: Any,
    twin: bool = False,
    looks: "Looks | None" = None,
) -> dict[str, Any]:
    """Train a recipe into the run directory `out`; what came of it, as plain data.

    Its `twin` without images will be trained next: whether the model can do without is checked before the first step.
    `looks` are taken at it while its last stage goes on. Raises InputError for bad input, a directory that another
    command works in and a full disk, and Interrupted with the checkpoint that resumes.
    """
    from foveal.cli._looks import save as saved
    from foveal.training.loop import train
    from foveal.training.processes import check_groups, processes, remarks
    from foveal.training.sections import check_recipe

    _check_place(out)
    count = processes(recipe.training.device).num_processes
    groups = check_groups(count, tensor=recipe.training.tensor)
    check_recipe(recipe.training, processes=count)
    folder, data, run = prepared(recipe, say=say, bar=bar)
    if twin:
        check_blind(run.model.config.assembly)
    for remark in remarks(recipe.training, groups=groups):
        say(remark)
    batches = Batches(run, recipe, data, say=say, bar=bar)
    begun = not fresh and (out / "checkpoints").is_dir()
    check_stages(run, batches, recipe.training.stages, begun=begun)

    def save(stage: Stage, place: Path) -> None:
        made = {"recipe": recipe.name, **about(recipe, len(data))}
        saved(run, batches.processor(stage), place, about=made)

    def ended(stage: Stage) -> None:
        if recipe.training.keep_stages and stage != recipe.training.stages[-1]:
            save(stage, out / "stages" / stage.name)

    told = {"collate": batches, "recipe": {**recipe.identity(), **_lines(recipe)}, "fresh": fresh, "ended": ended}
    told |= {} if looks is None else {"watch": looks.watch(save)}
    main = processes(recipe.training.device).is_main_process
    with alone(out) if main else nullcontext():  # its processes share a run
        result = train(run.model, data, config=recipe.training, out=out, **told)
        run.processor = batches.processor(recipe.training.stages[-1])
        loss = _last_loss(out) if result.loss is None else result.loss
        told = {"recipe": recipe.name, "steps": result.steps, "seconds": round(result.seconds, 1), "loss": loss}
        run.about = {**told, **about(recipe, len(data))}
        if main:
            _save(run, out)
    return {"run": str(out), "data": str(folder), "resumed_from": result.resumed_from, **told}


def _save(run: "Run", out: Path) -> None:
    """Save a run; raises InputError for a full disk."""
    import errno

    try:
        run.save(out)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise InputError(f"no space left on the disk of {out}; free some and train again: all steps are kept") from None


def prepared(recipe: Recipe, *, say: Callable[[str], None], bar: Any) -> tuple[Path, list[Example], "Run"]:
    """Where the data of a recipe are, its examples, and the model that it trains; raises InputError for bad input."""
    from foveal.training.objective import objective

    for stage in recipe.training.stages:
        objective(stage.objective)  # what is wrong with a later stage is told before anything is made
    folder = data_folder(recipe, say=say, bar=bar)
    data = examples(recipe, folder)
    _needs.check(recipe, data)
    data = _needs.answered(recipe, data, say)
    _needs.facts(recipe, data)
    return folder, data, model_of(recipe, data)


def _last_loss(out: Path) -> float | None:
    """The loss of a run that was trained before, where nothing was left to do."""
    from foveal.weights.directory import described

    return ((described(out) or {}).get("about") or {}).get("loss")


def about(recipe: Recipe, count: int) -> dict[str, Any]:
    """How a run was made, for its record."""
    import foveal

    stages = [{"name": stage.name, "train": list(stage.parts)} for stage in recipe.training.stages]
    made = {"system": recipe.system, "seed": recipe.seed, "text_only": recipe.text_only, "init": dict(recipe.init)}
    made |= {"classes": recipe.training.classes} if recipe.training.classes else {}
    return {**made, "data": dump(recipe.data), "examples": count, "stages": stages, "foveal": foveal.__version__}


def _lines(recipe: Recipe) -> dict[str, str]:
    """The fingerprint of data sets that may change under a run; what is made here follows from its settings."""
    from foveal.data.places import files, fingerprint

    found = [file for path in paths(recipe.data) for file in files(path, recipe.data.split)]
    return {"lines": fingerprint(found)} if found else {}


def check_stages(run: "Run", batches: "Batches", stages: Sequence[Stage], *, begun: bool) -> None:
    """Raises InputError for a part, a rate, an adapter or a processor's setting that cannot be, of any stage.

    Of a training that has `begun` rates and rows may stand that are of no use: it goes on as it was.
    """
    from foveal.training.lora import check as check_lora
    from foveal.training.parts import check, select

    for stage in stages:
        most = stage.batch_size * batches.processor(stage).config.context
        if not begun and not stage.group and (stage.pack or 0) > most:
            raise InputError(
                f"stage {stage.name!r} packs rows of {stage.pack:,} tokens, and its {stage.batch_size} conversations, "
                f"as long as processor.context lets them be, have {most:,}; give pack up to that"
            )
        check_lora(run.model, stage.lora)
        if stage.lora is None:  # adapters have names of their own
            select(run.model, (*stage.parts, *stage.rates)) if begun else check(run.model, stage)


def _check_place(out: Path) -> None:
    """Raises InputError where `out` is a file or a directory of something else."""
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file; give --out a directory")
    ours = ("log.jsonl", "checkpoints", "text_only")
    if out.is_dir() and any(out.iterdir()) and not any((out / name).exists() for name in ours):
        raise InputError(f"{out} holds something else than a training run; give another --out")


class Batches:
    """For each stage, what makes a batch of groups of examples."""

    def __init__(self, run: "Run", recipe: Recipe, data: Sequence[Example], *, say: Any, bar: Any) -> None:
        self.run, self.recipe, self.data, self.say, self.bar = run, recipe, data, say, bar

    def processor(self, stage: Stage) -> "Processor":
        """The run's processor with the settings of a stage over its own."""
        from foveal.preprocess.processor import Processor, ProcessorConfig
        from foveal.training.processes import processes
        from foveal.weights.proposals import finder

        own = self.run.processor
        assert own is not None
        settings = merged({**own.settings(), "masking": masking(stage)}, stage.processor)
        config = parse(ProcessorConfig, settings, where=f"stage {stage.name}.processor")
        find = finder(config, device=processes(self.recipe.training.device).device)
        made = Processor(tokenizer=own.tokenizer, config=config, find=find)
        made.listener = own.listener
        return made

    def __call__(self, stage: Stage) -> "Collate":
        """The collate of a stage; features of a frozen encoder are computed now, those that are not there yet."""
        from foveal.models.budget import unspent

        processor, wanted = self.processor(stage), wants(stage)
        model: Any = self.run.model
        model = unspent(model) if wanted.spends else model
        plan = self._plan(model)
        _detection.check(processor, self.data, self.say)
        blind, known, seen = self.recipe.text_only or stage.images != "shown", {}, self._seen(stage)
        if not blind:
            self._fits(stage, processor, plan)
        visual = None if blind else self._features(stage, processor)
        if not blind:
            self._find(processor)
            self._tell(stage, processor)
        teller = self.recipe.training.classes if _classes.wanted(stage) and not blind else None
        classes = _classes.of(teller, processor, plan, see=self._told)

        def encoded(example: Example) -> Any:
            if id(example) not in known:  # tokens are the same at every visit
                known[id(example)] = processor.encode(seen(example))
            return known[id(example)]

        def collate(groups: Sequence[Sequence[Example]], place: int) -> "Batch":
            entries = [[encoded(example) for example in group] for group in groups]
            make = partial(
                processor.training,
                [entry if len(entry) > 1 else entry[0] for entry in entries],
                plan=plan,
                length=stage.pack,
                cells=wanted.cells and not blind,
                seed=(self.recipe.training.seed, crc32(stage.name.encode()), place),
            )
            if classes is None:
                return make(visual=visual)
            return _classes.told(make, visual or processor.pixels, classes)

        return collate

    def _plan(self, model: Any) -> Any:
        """How many visual tokens images bring: the model's own plan."""
        return model.plan

    def _fits(self, stage: Stage, processor: "Processor", plan: Any) -> None:
        """Raise InputError where the stage's first example with images is too long, before any of them is encoded."""
        from foveal.core.types import IGNORE

        example = self._first(stage)
        if example is None:
            return
        batch = processor.training([example], plan=plan, length=stage.pack, visual=lambda images: None)  # type: ignore[arg-type,return-value]
        known = getattr(getattr(self.run.model, "language", None), "context", None)
        if known is None or batch.labels is None or self.run.model.config.assembly != "causal":
            return
        asked = int((batch.labels[0] != IGNORE).int().argmax())  # up to the first answer
        if asked >= known:
            raise InputError(
                f"the first question has {asked} tokens, and model.language.context is {known}: it could not be "
                f"answered; give the model more than {asked}"
            )

    def _tell(self, stage: Stage, processor: "Processor") -> None:
        """Say what each layer will see of the images of the stage's first example, where it is not all of them.

        Where tokens thin out as training goes on: as the stage begins, and as it ends.
        """
        from foveal.training.changing import course

        model, example = self.run.model, self._first(stage)
        fusion: Any = getattr(model, "fusion", None)
        if not hasattr(fusion, "by_layer") or example is None:
            return
        layouts: list[Layout] = []

        def plan(*given: Any, **named: Any) -> "Layout":
            layouts.append(model.plan(*given, **named))
            return layouts[-1]

        processor.training([example], plan=plan, visual=lambda images: None)  # type: ignore[arg-type,return-value]
        ends: list[str] = []
        for way in course(self.recipe.training, stage) or ((None, "linear"),):
            then = copy(fusion)  # what trains may be on its way already
            then.at_sparsity(*way)
            ends.append(", ".join(str(sum(seen)) for seen in then.by_layer(layouts[-1])))
        self.say(f"{stage.name}: visual tokens by layer: {' at first, in the end '.join(dict.fromkeys(ends))}")

    def _first(self, stage: Stage) -> Example | None:
        """The first example with images among those that a stage sees; None where there is none."""
        from foveal.training.order import copies

        times = copies(self.data, stage.kinds, stage.sources)
        return next((one for one, often in zip(self.data, times, strict=True) if often and one.images), None)

    def _seen(self, stage: Stage) -> Callable[[Example], Example]:
        """What a stage's model is shown of an example: all of it, or text alone."""
        from foveal.evaluation.questions import captions, told, without_images

        if self.recipe.text_only or stage.images == "hidden":
            return without_images
        return partial(told, captions=captions(self.data)) if stage.images == "told" else lambda example: example

    def _features(self, stage: Stage, processor: "Processor") -> "Store | None":
        """The store of cached features, filled; None where they are not wanted or the encoder learns."""
        from foveal.models.parts import encoded

        wanted, model = self.recipe.training.features, self.run.model
        adapts = () if stage.lora is None else (stage.lora.part or "vision",)  # no name: the whole model's
        learns = any(part.split(".")[0] == "vision" for part in (*stage.train, *adapts))
        if wanted is None or model.vision is None or learns:
            return None
        spec: Any = model.config.vision
        encoder: Any = model.vision
        described = {"vision": [spec.name, dump(spec.settings)], "image": dump(processor.transform)}
        described |= {} if processor.config.video is None else {"video": dump(processor.config.video)}
        call = partial(encoded, encoder)
        images = self._images(processor.viewed, processor.transform.tiling)
        return self._stored(encoder, call, wanted, described, look=processor.pixels, images=images)

    def _find(self, processor: "Processor") -> None:
        """Have proposals found in every picture of the data now, those that are not known yet."""
        from foveal.training.processes import processes
        from foveal.weights.proposals import Finder

        find = processor.find
        if not isinstance(find, Finder):
            return
        state = processes(self.recipe.training.device)
        mine = find.missing(_share(self._images(), state))
        with self.bar("proposals", len(mine)) as advance:
            find.look(mine, advance)
        find.close()
        state.wait_for_everyone()

    def _images(
        self, viewed: Callable[[Example], Example] = lambda example: example, tiling: "Tiling | None" = None
    ) -> list[Any]:
        """Every image of the data, once, as a model views it and the tiling takes it."""
        from foveal.preprocess.collate import identity
        from foveal.preprocess.video import among

        shown = (image for example in self.data for image in among(viewed(example).images, tiling))
        return list({identity(image): image for image in shown}.values())

    def _told(self, teller: _classes.Teller) -> "Store":
        """The store of what a teller of classes says of every image."""
        from foveal.training.config import Features

        own = replace(self.recipe.training.features or Features(), dtype=teller.dtype)
        own = replace(own, precision="fp32") if teller.dtype == "fp32" else own
        described, look = {"image": dump(teller.transform)}, teller.transform.pixels
        return self._stored(teller.part, teller, own, described, look=look, images=self._images())

    def _stored(
        self,
        encoder: Any,
        call: Any,
        wanted: "Features",
        described: Mapping[str, Any],
        *,
        look: Any,
        images: list[Any],
    ) -> "Store":
        """A store of what an encoder says of every image when it is called so, filled."""
        from foveal.training.features import fill
        from foveal.training.processes import processes

        store = self._store(encoder, wanted, described)
        state = processes(self.recipe.training.device)
        encoder.to(state.device)
        mine = store.missing(_share(images, state))
        with self.bar("features", len(mine)) as advance:
            fill(
                store,
                mine,
                encoder=call,
                look=look,
                device=str(state.device),
                precision=wanted.precision,
                batch_size=wanted.batch_size,
                say=self.say,
                progress=advance,
            )
        state.wait_for_everyone()
        store.refresh()
        return store

    def _store(self, encoder: Any, wanted: "Features", described: Mapping[str, Any]) -> "Store":
        """The store of an encoder, as far as it was filled before."""
        from foveal.training.features import Store, identity
        from foveal.weights.smollm2 import user_cache

        name = identity(encoder, dtype=wanted.dtype, precision=wanted.precision, **described)
        return Store(Path(wanted.folder or user_cache() / "features") / name, wanted.dtype)


def _share(images: list[Any], state: Any) -> list[Any]:
    """A process's own of all images: of what is missing another may have made some already, and lists differ."""
    return images[state.process_index :: state.num_processes]


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the entries of `over` in their places, level by level."""
    both = {**base, **over}
    for key in base.keys() & over.keys():
        if isinstance(base[key], Mapping) and isinstance(over[key], Mapping):
            both[key] = merged(base[key], over[key])
    return both
