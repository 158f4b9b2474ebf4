"""`foveal serve`: one model behind OpenAI's chat completions, on this machine."""

from pathlib import Path

import typer


def command(
    run: Path | None = typer.Argument(
        None, metavar="RUN", help="A run or checkpoint directory.", show_default="starter model"
    ),
    host: str = typer.Option("127.0.0.1", "--host", help="Where to listen; others reach any but this machine's own."),
    port: int = typer.Option(8000, "--port", min=0, max=65535, help="0 takes a free one."),
    key: str | None = typer.Option(
        None, "--api-key", envvar="FOVEAL_API_KEY", help="Who asks must send it as a Bearer token."
    ),
    longest: int = typer.Option(128, "--max-new-tokens", min=1, help="The longest answer anyone gets, in tokens."),
    together: int = typer.Option(1, "--batch", min=1, help="Requests that are answered at once; late ones join."),
    threads: int | None = typer.Option(None, "--threads", min=1, help="Processor threads.", show_default="torch's own"),
) -> None:
    """Serve a model to OpenAI's clients: base_url is the address that is printed."""
    import sys
    from contextlib import closing

    from foveal.cli import _http, _regions
    from foveal.cli._runs import open_run
    from foveal.cli._serve_desk import Desk
    from foveal.cli._serve_door import check_key
    from foveal.cli._serve_server import Server
    from foveal.cli._serve_speaker import Speaker

    check_key(key)
    speaker = Speaker(open_run(run), longest=longest)
    _regions.warn(run)
    name = "starter" if run is None else run.resolve().name or str(run)
    with (
        closing(Desk(speaker, together=together, threads=threads)) as desk,
        Server(desk, name=name, host=host, port=port, key=key) as server,
        _http.interrupted() as told,
    ):
        if not server.near and key is None:
            print(f"foveal: everyone who reaches {host} can ask; give an --api-key", file=sys.stderr)
        print(f"{server.url}v1 serves {name!r}; Ctrl-C ends it", flush=True)
        server.until(told)
    print("ended")
