"""The command line: one file a command, found by folder; bad input is one line and exit code 2."""

import importlib
import os
import pkgutil
import sys

import typer

from foveal.core.errors import InputError

app = typer.Typer(
    name="foveal",
    help="Vision-language models of every fusion family, with visual tokens spent where the question needs them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback()
def _root() -> None:
    """A callback keeps the commands' names even when there is one."""


def _collect() -> None:
    package = importlib.import_module("foveal.cli")
    for found in pkgutil.iter_modules(package.__path__):
        if found.name == "main" or found.name.startswith("_"):
            continue
        module = importlib.import_module(f"foveal.cli.{found.name}")
        if hasattr(module, "app"):
            app.add_typer(module.app, name=found.name)
        else:
            app.command(name=found.name)(module.command)


def main() -> None:
    """Run the command line. Exit codes: 0 done, 2 bad input, 1 our fault, 130 interrupted."""
    _collect()
    try:
        app()
    except InputError as error:
        print(f"foveal: {error}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader has gone; nothing is left to say
        sys.exit(0)


if __name__ == "__main__":
    main()
