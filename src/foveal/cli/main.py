"""The command line: one file a command, found by folder; bad input is one line and exit code 2."""

import errno
import importlib
import io
import os
import pkgutil
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer

from foveal.core.errors import InputError

ABOUT = "Vision-language models of every fusion family, with visual tokens spent where the question needs them."

_FULL = (errno.ENOSPC, errno.EDQUOT)
_GUARDED = (errno.EROFS, errno.ENAMETOOLONG, *_FULL)


def collect() -> typer.Typer:
    """The application with every command of the folder: a file holds `app` (a group) or `command` (one command)."""
    app = typer.Typer(name="foveal", help=ABOUT, add_completion=False, pretty_exceptions_enable=False)
    app.callback()(_root)
    package = importlib.import_module("foveal.cli")
    for found in pkgutil.iter_modules(package.__path__):
        if found.name == "main" or found.name.startswith("_"):
            continue
        module = importlib.import_module(f"foveal.cli.{found.name}")
        if hasattr(module, "app"):
            app.add_typer(module.app, name=found.name)
        else:
            app.command(name=found.name)(module.command)
    return app


def _version(wanted: bool) -> bool:
    if wanted:
        from importlib.metadata import version

        print(f"foveal {version('foveal')}")
        raise typer.Exit
    return wanted


def _root(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Show the version."),
) -> None:
    """A callback keeps the commands' names even when there is one."""


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code; an error that is our fault is raised."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # an answer is not lost to a terminal that lacks its letters
        sys.stdout.reconfigure(errors="backslashreplace")
    with warnings.catch_warnings():
        warnings.showwarning = _warned
        return _run(arguments)


def _warned(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
    """A warning to the user is one line; a programmer's says where it comes from."""
    told = f"foveal: {message}\n" if category is UserWarning else warnings.formatwarning(message, category, *where[:2])
    sys.stderr.write(told)


def _run(arguments: Sequence[str]) -> int:
    try:
        # Not `app(arguments)`: its own error handling would draw boxes and swallow what the lines below tell apart.
        command = typer.main.get_command(collect())
        with command.make_context("foveal", list(arguments) or ["--help"]) as context:
            command.invoke(context)
        if sys.stdout is not None:  # it may be closed
            sys.stdout.flush()
    except typer.Exit as wish:
        return wish.exit_code
    except InputError as error:
        return _refuse(str(error))
    except ModuleNotFoundError as error:
        from foveal.cli._runs import missing

        if (told := missing(error)) is error:
            raise
        return _refuse(str(told))
    except (BrokenPipeError, SystemExit) as ending:
        if not isinstance(ending, BrokenPipeError) and not isinstance(ending.__context__, BrokenPipeError):
            raise  # only Rich ends the process by itself where its reader has gone
        _silence()  # nothing is left to say
    except OSError as error:
        if error.errno in _FULL and error.filename is None:
            _silence()
            return _refuse("no space left where the output goes; free some, or send it elsewhere")
        if (told := _place(error, arguments)) is None:
            raise
        return _refuse(told)
    except KeyboardInterrupt:
        print("foveal: interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        told = getattr(error, "format_message", None)  # a usage error, whichever click this typer is built on
        if told is None:
            raise
        where = getattr(getattr(error, "ctx", None), "command_path", "foveal")
        return (
            _refuse(f"{told().rstrip('.')}; see '{where} --help'") if told() else 2
        )  # a bare group has printed its help
    return 0


def _silence() -> None:
    """What is still to be written goes nowhere, so that the process ends without a second complaint."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _place(error: OSError, arguments: Sequence[str]) -> str | None:
    """What is wrong with a place that the user named, or that the system guards; None for a fault of ours."""
    if not isinstance(error.filename, str | bytes | os.PathLike):
        return None
    where = os.path.abspath(os.fsdecode(error.filename))
    if isinstance(error, FileExistsError | NotADirectoryError) and not os.path.isdir(where):
        return f"{where} is a file, or lies in one; name another place"
    named = [Path(os.path.abspath(word)) for word in arguments if not word.startswith("-")]
    within = any(Path(where).is_relative_to(word) for word in named)
    above = not os.path.exists(where) and any(word.is_relative_to(where) for word in named)
    if isinstance(error, PermissionError | IsADirectoryError) or error.errno in _GUARDED or within or above:
        return f"cannot read or write {where} ({error.strerror}); name another place, or mend this one"
    return None


def _refuse(message: str) -> int:
    print(f"foveal: {' '.join(message.split())}", file=sys.stderr)
    return 2


def main() -> None:
    """Run the command line. Exit codes: 0 done, 2 bad input, 1 our fault, 130 interrupted."""
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
