"""The image that clusters run: a Dockerfile, and the command that builds it."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from foveal.deployment.serving import PLACE, USER

IGNORED = "# what is copied comes by name from other places (--build-context): nothing of this one\n*\n"
_LEFT = ("checkpoints", "stages", "text_only")  # of a run: what no server reads


@dataclass(frozen=True, kw_only=True)
class Image:
    """What an image holds: Foveal with some extras, of a source tree or as it is published, and a run by its name.

    `pinned` are the versions of packages that the run was opened with; `packages` are installed without what they ask
    for, `tools` by the system.
    """

    name: str
    version: str
    pinned: Mapping[str, str]
    extras: Sequence[str] = ()
    cuda: bool = False
    source: Path | None = None
    run: tuple[str, Path] | None = None
    python: str = "3.12"
    tools: Sequence[str] = ()
    packages: Sequence[str] = ()


def dockerfile(image: Image) -> str:
    """The Dockerfile."""
    torch = f"torch=={image.pinned['torch']}"
    others = " ".join(f"{name}=={version}" for name, version in image.pinned.items() if name != "torch")
    extras = f"[{','.join(image.extras)}]" if image.extras else ""
    first = [
        "# torch first and alone: of PyTorch's index of CPU builds it holds no CUDA libraries, which are gigabytes",
        "ARG TORCH_INDEX",
        f"RUN pip install --no-cache-dir {torch} ${{TORCH_INDEX:+--index-url $TORCH_INDEX}}",
    ]
    if image.cuda:
        why = "it brings the CUDA libraries; the node brings the driver, so the base needs neither"
        first = [f"# torch first and alone: {why}", f"RUN pip install --no-cache-dir {torch}"]
    tools = ["# what the operator's probes call", f"RUN apt-get update && apt-get install -y --no-install-recommends "
             f"{' '.join(image.tools)} && rm -rf /var/lib/apt/lists/*"] if image.tools else []  # fmt: skip
    lines = [
        "# syntax=docker/dockerfile:1",
        f"FROM python:{image.python}-slim",
        *tools,
        *first,
    ]
    if image.source is None:
        lines.append(f"RUN pip install --no-cache-dir 'foveal{extras}=={image.version}' {others}")
    else:
        lines += [
            "COPY --from=foveal pyproject.toml README.md LICENSE /opt/foveal/",
            "COPY --from=foveal src /opt/foveal/src",
            f"RUN pip install --no-cache-dir '/opt/foveal{extras}' {others} && rm -r /opt/foveal",
        ]
    if image.packages:
        lines.append(f"RUN pip install --no-cache-dir --no-deps {' '.join(image.packages)}")
    if image.run is not None:
        left = " ".join(f"--exclude={name}" for name in _LEFT)
        lines.append(f"COPY --from=run {left} . {PLACE}/{image.run[0]}")
    lines += [
        "# a user without rights, by number: Kubernetes checks runAsNonRoot by it",
        f"USER {USER}:{USER}",
        "ENV PYTHONUNBUFFERED=1 HOME=/tmp",
        'ENTRYPOINT ["foveal"]',
    ]
    return "\n".join([*lines, ""])


def build(image: Image, folder: Path) -> str:
    """The command that builds the image from a folder's Dockerfile; pushed where its name names a registry."""
    words = ["docker", "build", *(["--push"] if "/" in image.name else []), "-t", image.name]
    if image.source is not None:
        words += ["--build-context", f"foveal={image.source}"]
    if image.run is not None:
        words += ["--build-context", f"run={image.run[1]}"]
    return shlex.join([*words, str(folder)])
