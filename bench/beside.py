"""Runs beside each other on the same questions: how far each is ahead of the first, paired over scenes.

    python bench/beside.py --data DATA --runs runs/plain runs/anyres:441 runs/anyres [--split test] [--limit 500]

A run may come with a budget of visual tokens an image behind a colon, and settings of `foveal`, which spends it, behind
another (runs/anyres:441:cover=1). Prints exact match in percent, by kind of question too, with 95% intervals (bootstrap
over scenes), and the lead over the first run.
"""

import argparse
from pathlib import Path

import yaml

from foveal.cli import _show
from foveal.cli._evaluate import Wanted, ask, asked_of
from foveal.cli._runs import open_run
from foveal.evaluation.measure import DEFAULT, ahead, measure
from foveal.models.budget import unspent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--runs", nargs="+", required=True)
    parser.add_argument("--split", default="test")
    parser.add_argument("--kinds", help="of these kinds alone, such as detail,word")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--batch", type=int, default=16)
    arguments = parser.parse_args()
    first = None
    for named in arguments.runs:
        run, budget, *settings = [*named.split(":"), ""][:3]
        wanted = Wanted(
            run=Path(run), data=arguments.data, split=arguments.split, budget=int(budget) if budget else None,
            batch=arguments.batch, settings=yaml.safe_load("\n".join(settings).replace("=", ": ")) or {},
        )  # fmt: skip
        loaded = open_run(wanted.run)
        loaded.model = loaded.model if budget else unspent(loaded.model)
        kinds = None if arguments.kinds is None else arguments.kinds.split(",")
        asked = [one for one in asked_of(loaded, wanted) if kinds is None or one.kind in kinds][: arguments.limit]
        said = ask(loaded, asked, wanted, lambda what, total: _show.bar(_show.console(quiet=True), what, total), named)
        first = said if first is None else first
        found, lead = measure(DEFAULT, asked, said), ahead(DEFAULT, asked, said, first)
        whole = next(iter(found.figures.values()))
        each = ", ".join(f"{kind} {100 * rate.value:.1f} ({rate.count})" for kind, rate in found.kinds.items())
        print(
            f"{named}: {100 * whole.value:.1f} ({100 * whole.low:.1f}-{100 * whole.high:.1f}); {each}; ahead by "
            f"{100 * lead.value:.1f} ({100 * lead.low:.1f} to {100 * lead.high:.1f})",
            flush=True,
        )


if __name__ == "__main__":
    main()
