"""What a training run does, as data: stages in order, and how the run is kept safe and told about."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, Literal

from foveal.core.errors import InputError

_LARGEST = 2**32 - 1  # NumPy's
_LONGEST = 2**17  # tokens in a row, whose mask is then 16 GiB


@dataclass(frozen=True, kw_only=True)
class Lora:
    """Low-rank adapters (2106.09685) on the linear maps of `part` whose names end in a target; merged at stage end."""

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    part: str = "language"
    targets: tuple[str, ...] = ("query", "value")

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise InputError(f"lora.rank is {self.rank}; give 1 or more")
        if not 0 < self.alpha < math.inf:
            raise InputError(f"lora.alpha is {self.alpha:g}; give more than 0")
        if not 0 <= self.dropout < 1:
            raise InputError(f"lora.dropout is {self.dropout:g}; give a share from 0 to below 1")
        if not self.targets:
            raise InputError("lora.targets is empty; name linear maps of the part, such as query and value")


@dataclass(frozen=True, kw_only=True)
class Sparser:
    """How a fusion that thins visual tokens out comes to do so: all of them at first, fewer as training goes on.

    Before the share `begin` of the run (or of its stage) all layers see all tokens, from `end` on as many as the fusion
    plans; between them the number falls by equal differences (`linear`), equal ratios (`exponential`) or in so many
    equal `jumps` (`step`).
    """

    curve: Literal["linear", "exponential", "step"] = "linear"
    begin: float = 0.0
    end: float = 0.8
    jumps: int = 4

    def __post_init__(self) -> None:
        if not 0 <= self.begin < self.end <= 1 or self.jumps < 1:
            raise InputError(
                f"sparser goes from {self.begin:g} to {self.end:g} of the training in {self.jumps} jumps; give shares "
                "from 0 to 1 that grow, and 1 jump or more"
            )

    def way(self, done: float) -> float:
        """How much of the way from all tokens to the plan lies behind, where so much of the training does."""
        share = min(1.0, max(0.0, (done - self.begin) / (self.end - self.begin)))
        return math.floor(share * self.jumps + 1e-9) / self.jumps if self.curve == "step" else share


@dataclass(frozen=True, kw_only=True)
class Then:
    """From the share `at` of a stage on, these parts learn, and no others."""

    at: float
    train: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stretch of training; it ends after `steps`, `epochs` or `minutes`: give one of them.

    `train` names the parts that learn by the beginning of their parameters' names (`connector`, `language.layers.3`);
    all else is frozen. `then` gives other such lists, each from a share of the stage on: parts thaw or freeze, and what
    goes on learning keeps its optimizer's state. `sparser` is the run's, for this stage alone. `batch_size` counts
    examples, or images with all their questions where `group` is set; a step takes `accumulate` such batches in each
    process. `rates` are learning rates of single parts, `warmup` (below 1: a fraction of the stage, else steps) leads
    up to the rate and a half cosine down to `floor` times the rate. The optimizer `muon` takes orthogonal steps for
    matrices but embeddings and what `head` has, at the rates of AdamW, and `muon_kernels` for the kernels of
    convolutions too; where a model has several `heads`, their matrices are among them.
    `kinds` says how often an example of a kind is seen in an epoch (0.5: every other time, 2: twice; `"*"`: all
    others); `sources` names the data sets that the stage takes, where there are several. Images are `shown`, `told`
    (the caption of an image stands in its place: text alone, from which a language model learns to answer) or `hidden`.
    `pack` joins conversations in rows of that length. `processor` holds settings of the processor for this stage
    alone, such as a higher resolution.
    """

    name: str = "train"
    steps: int | None = None
    epochs: float | None = None
    minutes: float | None = None
    train: tuple[str, ...] = ("connector", "language", "head")
    then: tuple[Then, ...] = ()
    lora: Lora | None = None
    objective: str | Mapping[str, Any] = "next_token"
    batch_size: int = 16
    accumulate: int = 1
    group: bool = False
    group_limit: int | None = None
    pack: int | None = None
    kinds: Mapping[str, float] = field(default_factory=dict)
    sources: tuple[str, ...] = ()
    images: Literal["shown", "told", "hidden"] = "shown"
    rate: float = 1e-3
    rates: Mapping[str, float] = field(default_factory=dict)
    warmup: float = 0.03
    floor: float = 0.0
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.99)
    optimizer: Literal["adamw", "muon", "muon_kernels"] = "adamw"
    clip: float = 1.0
    precision: Literal["fp32", "bf16"] = "fp32"
    checkpointing: bool = False
    processor: Mapping[str, Any] = field(default_factory=dict)
    sparser: Sparser | None = None

    def __post_init__(self) -> None:
        if self.name in ("", ".", "..") or any(sign in self.name for sign in "/\\\0"):
            raise InputError(
                f"a stage is called {self.name!r}, and with keep_stages its run is a directory of that name; give it a "
                "name without slashes, such as align"
            )
        given = [key for key in ("steps", "epochs", "minutes") if getattr(self, key) is not None]
        if len(given) != 1:
            raise InputError(
                f"stage {self.name!r} has {' and '.join(given) or 'no end'}; give one of steps, epochs and minutes"
            )
        for key in (*given, "batch_size", "accumulate", "rate", "clip", "group_limit", "pack"):
            value = getattr(self, key)
            if value is not None and not 0 < value < math.inf:
                raise InputError(f"stage {self.name!r} has {key} {value}; give more than 0")
        if (self.pack or 0) > _LONGEST:
            raise InputError(f"stage {self.name!r} has pack {self.pack}; give up to {_LONGEST:,} tokens a row")
        if not 0 <= self.floor <= 1:
            raise InputError(f"stage {self.name!r} has floor {self.floor}; give a share from 0 to 1")
        for place, value in enumerate(self.betas):
            if not 0 <= value < 1:
                raise InputError(
                    f"stage {self.name!r} has betas.{place} {value}; give a share from 0 to 1, without 1 itself"
                )
        shares = {f"{key}.{name}": value for key in ("rates", "kinds") for name, value in getattr(self, key).items()}
        for key, value in {"warmup": self.warmup, "weight_decay": self.weight_decay, **shares}.items():
            if not 0 <= value < math.inf:
                raise InputError(f"stage {self.name!r} has {key} {value}; give 0 or more")
        if not self.train and self.lora is None:
            raise InputError(f"stage {self.name!r} trains nothing; name parts in 'train' or give lora settings")
        begins = [0.0, *(one.at for one in self.then), 1.0]
        if not all(before < after for before, after in pairwise(begins)):
            told = ", ".join(f"{begin:g}" for begin in begins[1:-1])
            raise InputError(
                f"stage {self.name!r} changes what learns at {told}; give shares between 0 and 1, the first first"
            )
        if self.lora is None and not all(one.train for one in self.then):
            raise InputError(f"stage {self.name!r} trains nothing from some share on; name parts in each 'train'")

    @property
    def parts(self) -> tuple[str, ...]:
        """All parts that learn at some time."""
        return tuple(dict.fromkeys((*self.train, *(part for one in self.then for part in one.train))))

    def phases(self) -> "tuple[tuple[float, Stage], ...]":
        """The stretches in which the same parts learn: up to which share of the stage, and how it trains then."""
        ends, trains = (*(one.at for one in self.then), 1.0), (self.train, *(one.train for one in self.then))
        return tuple((end, replace(self, train=train, then=())) for end, train in zip(ends, trains, strict=True))


@dataclass(frozen=True, kw_only=True)
class Features:
    """Cached features of a frozen encoder: where (None: the user's cache), how they are stored and computed."""

    folder: str | None = None
    dtype: Literal["fp32", "fp16", "bf16"] = "fp16"
    precision: Literal["fp32", "bf16"] = "fp32"
    batch_size: int = 8  # larger ones leave the processor's caches and cost a quarter more

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise InputError(f"features.batch_size is {self.batch_size}; give 1 or more")


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Stages, and what holds for all of them.

    A checkpoint is written every `checkpoint_minutes` and when a stage ends; the last `keep` stay. With `keep_stages`
    each stage but the last leaves a run of its own, in `stages` within the run. `workers` processes make batches (0: a
    thread of this one). At `max_minutes` the run ends as if its stages were done.
    `features` keeps what a frozen encoder sees of each image in a file, so that it is computed once. `classes` says
    what hidden visual tokens are told by: `imagenet` (the pretrained classifier at each cell), or a run with an image
    tokenizer (its codes). `zero` says what processes share: 2 gradients and optimizer's state, 3 weights too (ZeRO,
    1910.02054), and `tensor` how many of them split each layer's products (1909.08053); of `pipeline` processes each
    holds some of the language model's layers (1811.06965). `sparser` thins visual tokens out over the whole run, of
    which each stage is an equal part.
    """

    stages: tuple[Stage, ...] = (Stage(epochs=1.0),)
    seed: int = 0
    checkpoint_minutes: float = 5.0
    keep: int = 2
    keep_stages: bool = False
    log_every: int = 10
    tensorboard: bool = False
    workers: int = 0
    max_minutes: float | None = None
    features: Features | None = None
    classes: str | None = None
    device: Literal["auto", "cpu"] = "auto"
    zero: Literal[0, 2, 3] = 0
    tensor: int = 1
    pipeline: int = 1
    sparser: Sparser | None = None

    def __post_init__(self) -> None:
        names = [stage.name for stage in self.stages]
        if not names:
            raise InputError("training has no stages; give at least one")
        if len(set(names)) < len(names):
            raise InputError(f"two stages have one name: {', '.join(names)}; give each its own")
        if self.keep < 1:
            raise InputError(f"keep is {self.keep}; keep at least 1 checkpoint, or nothing can be resumed")
        check_seed("training.seed", self.seed)
        if self.tensor < 1:
            raise InputError(f"training.tensor is {self.tensor}; give 1 (layers are whole) or how many split each")
        if self.pipeline < 1:
            raise InputError(f"training.pipeline is {self.pipeline}; give 1 or more processes to hold a model together")
        if self.log_every < 1:
            raise InputError(f"training.log_every is {self.log_every}; tell of every 1 step or more")
        for key in ("workers", "checkpoint_minutes", "max_minutes"):
            value = getattr(self, key)
            if value is not None and not 0 <= value < math.inf:
                raise InputError(f"training.{key} is {value}; give 0 or more")


def check_seed(name: str, seed: int) -> None:
    """Raises InputError for a seed that the generators of random numbers do not take."""
    if not 0 <= seed <= _LARGEST:
        raise InputError(f"{name} is {seed}; give a number from 0 to {_LARGEST:,}")
