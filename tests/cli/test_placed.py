"""Directories that take their place whole, or not at all."""

import re
import sys
from pathlib import Path

import pytest

from foveal.cli._placed import placed
from foveal.core.errors import InputError


def test_what_went_well_takes_its_place_and_what_fails_leaves_nothing(tmp_path):
    for out in (tmp_path / "new", tmp_path / "deep" / "new", tmp_path / "empty"):
        (tmp_path / "empty").mkdir(exist_ok=True)
        with placed(out) as made:
            (made / "file").write_text("a")
        assert [path.name for path in out.iterdir()] == ["file"] and not [*out.parent.glob(".foveal-*")]
    with pytest.raises(RuntimeError), placed(tmp_path / "failed"):
        raise RuntimeError
    assert not (tmp_path / "failed").exists() and not [*tmp_path.glob(".foveal-*")]


def test_a_place_that_is_taken_or_leads_nowhere_is_refused(tmp_path):
    (tmp_path / "file").write_text("a")
    (tmp_path / "link").symlink_to("nowhere")
    said = {"file": "file is there already", "link": "link is a link to nowhere, which is not there"}
    said |= {"file/below": "cannot make .*below"}
    for name, words in said.items():
        with pytest.raises(InputError, match=f"{words}.*; name another place by --out"), placed(tmp_path / name):
            pass
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="another system has no such places")
@pytest.mark.parametrize("out", ["/proc/new", "/proc/new/below", "/sys/new"])
def test_a_place_where_nothing_can_be_made_is_named_as_it_was_given(out):
    with pytest.raises(InputError, match=re.escape(f"cannot make {out} (")), placed(Path(out)):
        pass
