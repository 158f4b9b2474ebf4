"""`foveal app`: the microscope, a web page on this machine that shows where an answer looked."""

from pathlib import Path

import typer


def command(
    run: list[Path] = typer.Option(
        [], "--run", help="A run or checkpoint directory; again for another beside it.", show_default="starter model"
    ),
    host: str = typer.Option("127.0.0.1", "--host", help="Where to listen; others reach any but this machine's own."),
    port: int = typer.Option(7860, "--port", min=0, max=65535, help="0 takes a free one."),
) -> None:
    """Open the microscope: drop a picture, ask, and see where the answer looked and what it cost."""
    import sys

    from foveal.cli._app_desk import Desk
    from foveal.cli._app_server import Server
    from foveal.cli._http import interrupted
    from foveal.cli._runs import open_run

    named = {str(each): each for each in run} or {"starter": None}
    desk = Desk({name: open_run(each) for name, each in named.items()})
    with Server(desk, host=host, port=port) as server, interrupted() as told:
        if not server.near:
            print(f"foveal: everyone who reaches {host} can ask; there is no password", file=sys.stderr)
        print(f"{server.url} shows the microscope; Ctrl-C ends it", flush=True)
        server.until(told)
    print("ended")
