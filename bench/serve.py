"""`foveal serve` with and without --batch: the same requests by many clients, sides alternating in one run.

    python bench/serve.py [RUN] [--batch 4] [--clients 8] [--requests 48] [--budget N] [--rounds 3] [--threads 1]

Without RUN the starter model answers. Every request has a picture of its own and one of two questions. Prints the
requests a second of each side, the median of the paired ratios batched / one by one (above 1 is better) by the clock
and by the time of this process, which other processes disturb less, and how many answers differ.
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
from pathlib import Path

import numpy as np
from PIL import Image

from foveal.cli._runs import open_run
from foveal.cli._serve_desk import Desk
from foveal.cli._serve_server import Server
from foveal.cli._serve_speaker import Speaker

QUESTIONS = ("How many drawings are there?", "Describe the picture.")


def request(number: int, budget: int | None) -> str:
    """A question about a picture of noise."""
    held = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 255, (8, 8, 3), np.uint8)
    Image.fromarray(pixels).resize((256, 256)).save(held, "PNG")
    url = f"data:image/png;base64,{base64.b64encode(held.getvalue()).decode()}"
    content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": QUESTIONS[number % 2]}]
    return json.dumps({"messages": [{"role": "user", "content": content}], "max_tokens": 32, "budget": budget})


def asked(server: Server, body: str) -> str:
    """The words of an answer."""
    line = http.client.HTTPConnection(*server.server_address[:2], timeout=600)
    line.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
    told = json.loads(line.getresponse().read())
    line.close()
    return told["choices"][0]["message"]["content"]


def served(
    speaker: Speaker, bodies: list[str], *, together: int, clients: int, threads: int
) -> tuple[tuple[float, float], list[str]]:
    """Seconds by the clock and of this process, and the answers."""
    with (
        closing(Desk(speaker, together=together, line=clients, threads=threads)) as desk,
        Server(desk, name="bench", host="127.0.0.1", port=0) as server,
        ThreadPoolExecutor(clients) as some,
    ):
        listening = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        listening.start()
        asked(server, bodies[0])  # what the first request prepares
        began = time.perf_counter(), time.process_time()
        said = list(some.map(lambda body: asked(server, body), bodies))
        spent = time.perf_counter() - began[0], time.process_time() - began[1]
        server.shutdown()
        listening.join()
    return spent, said


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="?", type=Path)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--requests", type=int, default=48)
    parser.add_argument("--budget", type=int)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    speaker = Speaker(open_run(arguments.run), longest=128)
    bodies = [request(number, arguments.budget) for number in range(arguments.requests)]
    way = {"clients": arguments.clients, "threads": arguments.threads}
    pairs, differ = [], 0
    for _ in range(arguments.rounds):
        alone, plain = served(speaker, bodies, together=1, **way)
        batched, said = served(speaker, bodies, together=arguments.batch, **way)
        pairs.append((alone, batched))
        differ += sum(one != other for one, other in zip(plain, said, strict=True))
    for place, name in enumerate(("one by one", f"--batch {arguments.batch}")):
        rate = statistics.median(arguments.requests / pair[place][0] for pair in pairs)
        print(f"{name}: {rate:.1f} requests a second")
    for place, name in enumerate(("by the clock", "of this process")):
        ratio = statistics.median(alone[place] / batched[place] for alone, batched in pairs)
        print(f"batched / one by one, {name}: {ratio:.2f}")
    print(f"answers that differ: {differ} of {arguments.rounds * arguments.requests}")


if __name__ == "__main__":
    main()
