import yaml
from hypothesis import given
from hypothesis import strategies as st

from foveal.deployment.notes import Noted, plain, text

WORDS = st.text(max_size=12)
SCALARS = st.none() | st.booleans() | st.integers() | WORDS


def _noted(inner):
    return inner | st.builds(Noted, inner, st.just("because"))


DATA = st.recursive(
    _noted(SCALARS), lambda inner: _noted(st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3))
)


@given(st.dictionaries(WORDS, DATA, max_size=4))
def test_what_is_written_is_read_back_whatever_it_is(document):
    assert (yaml.safe_load(text(document)) or {}) == plain(document)


def test_reasons_stand_above_what_they_are_of():
    document = {
        "args": ["serve", "8000"],
        "many": Noted(2, "two eyes"),
        "list": [Noted({"name": Noted("a", "first"), "more": {}}, "of a"), {"name": "b"}, Noted("c", "of c")],
        "words": "one\ntwo",
    }
    assert text(document) == (
        "args: [serve, '8000']\n# two eyes\nmany: 2\nlist:\n  # of a\n  # first\n  - name: a\n    more: {}\n"
        "  - name: b\n  # of c\n  - c\nwords: |-\n  one\n  two\n"
    )
