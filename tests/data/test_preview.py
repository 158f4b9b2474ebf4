import re

import pytest
from PIL import Image

from foveal.core.errors import InputError
from foveal.core.example import Box, Example
from foveal.data.format import chat
from foveal.data.preview import SIDE, picture, write_preview


@pytest.fixture
def group(tmp_path):
    Image.new("RGB", (40, 20), "white").save(tmp_path / "a.png")
    box = Box(label="fox", xyxy=(10.0, 5.0, 30.0, 15.0))
    return [
        Example(id=str(i), images=(tmp_path / "a.png",), messages=tuple(chat(q, a)), boxes=(box,), meta={"kind": kind})
        for i, (q, a, kind) in enumerate([("Where <b>?", "left", "where"), ("Describe.", "A fox.", "caption")])
    ]


def test_boxes_are_where_they_belong(group):
    shown = picture(group)
    assert shown.size == (SIDE, SIDE)
    assert shown.getpixel((SIDE // 4, SIDE // 2)) == (200, 30, 30)
    assert shown.getpixel((SIDE // 2, SIDE // 2)) == (255, 255, 255)


def test_a_page_needs_no_network(group, tmp_path):
    write_preview([group, group], tmp_path / "p.html", title="mine", credit="by <us>")
    text = (tmp_path / "p.html").read_text()
    assert text.index("Describe.") < text.index("Where &lt;b&gt;?") and "by &lt;us&gt;" in text
    assert not re.search(r"(src|href)=.http", text) and text.count("data:image/jpeg") == 2


def test_a_sheet(group, tmp_path):
    write_preview([group] * 5, tmp_path / "p.png", title="mine")
    with Image.open(tmp_path / "p.png") as sheet:
        assert sheet.width > 4 * SIDE and sheet.height > 2 * SIDE


@pytest.mark.parametrize(
    ("groups", "name", "message"),
    [(0, "p.png", "no example to show"), (1, "p.gif", "has the ending .gif"), (1, "gone/p.png", "no folder .*gone")],
)
def test_mistakes(group, tmp_path, groups, name, message):
    with pytest.raises(InputError, match=message):
        write_preview([group] * groups, tmp_path / name, title="mine")
