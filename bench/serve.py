"""`foveal serve` with and without --batch: the same requests, which come one after the other, sides alternating.

    python bench/serve.py [RUN] [--batch 4] [--requests 48] [--gap 0.5] [--budget N] [--rounds 3] [--threads 1]

Without RUN the starter model answers. Every request has a picture of its own and one of two questions, of which one
wants a number and the other a description. They come at equal distances, each `--gap` of what an answer takes alone,
whoever is still being answered. All is measured by the time of this process, which other processes disturb less than
the clock, and which stands still when nobody computes. Prints for both sides how many requests were answered in a
second, and after how long half of them and nine in ten had their first words; then the median of the paired ratios, and
how many answers differ.
"""

import argparse
import base64
import http.client
import io
import json
import statistics
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from foveal.cli._runs import open_run
from foveal.cli._serve_desk import Desk
from foveal.cli._serve_server import Server
from foveal.cli._serve_speaker import Speaker

TOLD = {"rate": "requests a second", "half": "the first words of half", "most": "the first words of nine in ten"}
QUESTIONS = ("How many drawings are there?", "Describe the picture.")


@dataclass(frozen=True, kw_only=True)
class Side:
    """Seconds in all and to the first words of each request, and the answers."""

    spent: float
    waits: list[float]
    said: list[str]

    @property
    def rate(self) -> float:
        """Requests a second."""
        return len(self.said) / self.spent

    @property
    def half(self) -> float:
        """Seconds after which half of the requests had their first words."""
        return statistics.median(self.waits)

    @property
    def most(self) -> float:
        """Seconds after which nine in ten had."""
        return statistics.quantiles(self.waits, n=10)[-1]


def request(number: int, budget: int | None) -> str:
    """A question about a picture of noise."""
    held = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 255, (8, 8, 3), np.uint8)
    Image.fromarray(pixels).resize((256, 256)).save(held, "PNG")
    url = f"data:image/png;base64,{base64.b64encode(held.getvalue()).decode()}"
    content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": QUESTIONS[number % 2]}]
    asked = {"messages": [{"role": "user", "content": content}], "max_tokens": 64, "budget": budget}
    return json.dumps({**asked, "stream": True})


def asked(server: Server, body: str) -> tuple[float, str]:
    """Seconds to the first words of an answer, and all of them."""
    line = http.client.HTTPConnection(*server.server_address[:2], timeout=600)
    began, first, words = time.process_time(), None, []
    line.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
    for part in line.getresponse():
        if not part.startswith(b"data: {"):
            continue
        if said := json.loads(part[6:])["choices"][0]["delta"].get("content"):
            first = first or time.process_time() - began
            words.append(said)
    line.close()
    return first or time.process_time() - began, "".join(words)


def served(speaker: Speaker, bodies: list[str], *, together: int, gap: float, threads: int) -> Side:
    """What comes of requests that come so many seconds one after the other."""
    with (
        closing(Desk(speaker, together=together, line=len(bodies), threads=threads)) as desk,
        Server(desk, name="bench", host="127.0.0.1", port=0) as server,
        ThreadPoolExecutor(len(bodies)) as clients,
    ):
        listening = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        listening.start()
        asked(server, bodies[0])  # what the first request prepares
        began, coming = time.process_time(), []
        for number, body in enumerate(bodies):
            while time.process_time() < began + number * gap and not all(one.done() for one in coming):
                time.sleep(0.002)
            coming.append(clients.submit(asked, server, body))
        told = [one.result() for one in coming]
        spent = time.process_time() - began
        server.shutdown()
        listening.join()
    return Side(spent=spent, waits=[wait for wait, _ in told], said=[said for _, said in told])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="?", type=Path)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--requests", type=int, default=48)
    parser.add_argument("--gap", type=float, default=0.5)
    parser.add_argument("--budget", type=int)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    speaker = Speaker(open_run(arguments.run), longest=128)
    bodies = [request(number, arguments.budget) for number in range(arguments.requests)]
    way = {"threads": arguments.threads}
    gap = arguments.gap * served(speaker, bodies[:8], together=1, gap=0.0, **way).spent / 8
    sides, differ = {1: [], arguments.batch: []}, 0
    for _ in range(arguments.rounds):
        for together, some in sides.items():
            some.append(served(speaker, bodies, together=together, gap=gap, **way))
        one, other = (some[-1].said for some in sides.values())
        differ += sum(a != b for a, b in zip(one, other, strict=True))
    print(f"a request every {1000 * gap:.0f} ms")
    for together, some in sides.items():
        rate, half, most = (statistics.median(getattr(side, name) for side in some) for name in TOLD)
        told = f"{rate:.1f} requests a second, first words of half after {half:.2f} s, of nine in ten {most:.2f} s"
        print(f"--batch {together}: {told}")
    for name, about in TOLD.items():
        ratio = statistics.median(getattr(b, name) / getattr(a, name) for a, b in zip(*sides.values(), strict=True))
        print(f"--batch {arguments.batch} / --batch 1, {about}: {ratio:.2f}")
    print(f"answers that differ: {differ} of {arguments.rounds * arguments.requests}")


if __name__ == "__main__":
    main()
