"""Copies of pictures: none is lost to another of its name, equal ones are shared, and a failure leaves none."""

import pytest

from foveal.core.example import Example
from foveal.data.copies import Copies, same


def files(root, **held):
    made = []
    for name, text in held.items():
        place = root / name / "x.png"
        place.parent.mkdir(parents=True)
        place.write_text(text)
        made.append(place)
    return made


def copied(folder, *images):
    examples = [Example(id=str(image), messages=(), images=(image,)) for image in images]
    copies = Copies(folder)
    return [example.images[0].name for example in copies(examples)], copies


def test_each_picture_of_a_name_takes_a_free_one_and_equal_ones_are_shared(tmp_path):
    one, two, other = files(tmp_path, a="one", b="two", c="other")
    assert copied(tmp_path / "out", one, two, one)[0] == ["x.png", "1-x.png", "x.png"]
    assert copied(tmp_path / "out", other)[0] == ["2-x.png"]
    assert copied(tmp_path / "out", two, one)[0] == ["1-x.png", "3-x.png"]
    assert copied(tmp_path / "out", one, two)[0] == ["x.png", "1-x.png"]
    held = {path.name: path.read_text() for path in (tmp_path / "out").iterdir()}
    assert held == {"x.png": "one", "1-x.png": "two", "2-x.png": "other", "3-x.png": "one"}


def test_what_was_copied_is_undone_and_what_was_there_stays(tmp_path):
    one, two, other = files(tmp_path, a="one", b="two", c="other")
    copied(tmp_path / "out", one)
    copied(tmp_path / "out", one, two, other.parent)[1].undo()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["x.png"]
    copied(tmp_path / "fresh", one, two)[1].undo()
    assert not (tmp_path / "fresh").exists()


@pytest.mark.parametrize(("change", "equal"), [(None, True), ("y.png", False), ("x.png", False)])
def test_directories_of_frames_are_the_same_where_all_their_files_are(tmp_path, change, equal):
    one, other = (place.parent for place in files(tmp_path, a="frame", b="frame"))
    if change:
        (other / change).write_text("another")
    assert same(one, other) is equal and not same(one, other / "x.png")
