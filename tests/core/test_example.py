"""What tells pictures apart is their path, their bytes, or which object they are."""

import pickle
from pathlib import Path

from PIL import Image

from foveal.core.example import Example, Held, identity, pictures


def test_held_pictures_of_the_same_bytes_are_one():
    one, again, other = Held(bytes(9)), Held(bytes(9)), Held(bytes(8))
    assert one == again != other and len({one, again, other}) == 2
    assert identity(one) == identity(again) == identity(bytes(9)) == identity(pickle.loads(pickle.dumps(one)))
    assert one.digest is one.digest, "it is made once"
    assert identity(one) != identity(other) and one != one.data


def test_files_are_told_by_their_paths_and_opened_pictures_by_which_they_are():
    opened, alike = (Image.new("RGB", (2, 2)) for _ in range(2))
    shown = Example(id="a", messages=(), images=("a.png", Path("a.png"), opened, opened, alike))
    first, second, third, fourth, fifth = pictures(shown)
    assert first == second == "a.png" and third == fourth != fifth
