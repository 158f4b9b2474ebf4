"""A large photo to what an encoder reads, on the CPU: Foveal against transformers, the two sides alternating.

    python bench/preprocess.py [--rounds 5] [--size 3000 4000] [--source decoded|jpeg]

The photo is made here: smooth light, edges and grain. transformers' processors are those over Pillow, which are also
the ones that it takes by itself where torchvision is not installed (the second column says which it took). Prints the
median seconds of each side, the median of the paired ratios (transformers / Foveal, above 1: Foveal is faster), and the
largest difference of a value.
"""

import argparse
import io
import statistics
import tempfile
import time

import numpy as np
import torch
from PIL import Image
from transformers import AutoImageProcessor
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

from foveal.preprocess.transform import ImageTransform

SIDES = {"size": {"shortest_edge": 336}, "crop_size": {"height": 336, "width": 336}}
SYSTEMS = {
    "LLaVA-NeXT": lambda: LlavaNextImageProcessorPil(**SIDES),
    "Idefics3": Idefics3ImageProcessorPil,
    "SmolVLM": lambda: SmolVLMImageProcessorPil(size={"longest_edge": 2048}, max_image_size={"longest_edge": 512}),
    "Qwen2-VL": Qwen2VLImageProcessorPil,
    "CLIP": lambda: CLIPImageProcessorPil(**SIDES),
}


def photo(height, width):
    """Smooth light, disks with sharp edges, and grain, in three colours."""
    chance = np.random.default_rng(0)
    small = Image.fromarray(chance.integers(40, 216, (9, 12, 3), dtype=np.uint8))
    values = np.asarray(small.resize((width, height), Image.Resampling.BICUBIC)).astype(np.int16)
    rows, columns = np.ogrid[:height, :width]
    for _ in range(40):
        top, left, radius = chance.integers(height), chance.integers(width), chance.integers(20, height // 8)
        inside = (rows - top) ** 2 + (columns - left) ** 2 < radius**2
        values[inside] = values[inside] // 2 + chance.integers(0, 128, 3)
    values += chance.integers(-6, 7, values.shape, dtype=np.int16)
    return Image.fromarray(values.clip(0, 255).astype(np.uint8))


def taken(call, given):
    """The seconds that a call took of this process, which other processes do not disturb, and what it gave."""
    start = time.process_time()
    made = call(given)
    return time.process_time() - start, made


def row(processor, source, rounds):
    """Seconds of both sides, their ratio, and how far their values are apart."""
    look = ImageTransform.from_huggingface(processor.to_dict())
    calls = {
        "reference": lambda given: processor([read(given)], return_tensors="pt")["pixel_values"],
        "foveal": lambda given: look.pixels([read(given)]).values,
    }
    seconds, made = {side: [] for side in calls}, {}
    for number in range(rounds + 1):  # the first warms up
        for side in sorted(calls, reverse=bool(number % 2)):
            spent, made[side] = taken(calls[side], source)
            if number:
                seconds[side].append(spent)
    ratio = statistics.median(a / b for a, b in zip(seconds["reference"], seconds["foveal"], strict=True))
    apart = (made["reference"].reshape(made["foveal"].shape) - made["foveal"]).abs().max().item()
    return [statistics.median(seconds[side]) for side in ("reference", "foveal")], ratio, apart


def read(source):
    """The decoded picture, as each side would open it."""
    return Image.open(io.BytesIO(source)).convert("RGB") if isinstance(source, bytes) else source


def default_of(processor):
    """The class that transformers itself takes for such a config here."""
    with tempfile.TemporaryDirectory() as folder:
        processor.save_pretrained(folder)
        return type(AutoImageProcessor.from_pretrained(folder)).__name__


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size", type=int, nargs=2, default=(3000, 4000), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--source", choices=("decoded", "jpeg"), default="decoded")
    given = parser.parse_args()
    torch.set_num_threads(1)
    source = photo(*given.size)
    if given.source == "jpeg":
        file = io.BytesIO()
        source.save(file, "JPEG", quality=90)
        source = file.getvalue()
    print(
        f"{given.size[0]} x {given.size[1]} pixels, {given.source}, {given.rounds} rounds, process time of one thread"
    )
    print(f"{'':12}{'by itself here':30}{'transformers':>14}{'Foveal':>10}{'ratio':>8}{'apart':>10}")
    for name, make in SYSTEMS.items():
        processor = make()
        (theirs, ours), ratio, apart = row(processor, source, given.rounds)
        told = f"{theirs:>13.3f}s{ours:>9.3f}s{ratio:>8.2f}{apart:>10.2g}"
        print(f"{name:12}{default_of(processor):30}{told}", flush=True)


if __name__ == "__main__":
    main()
