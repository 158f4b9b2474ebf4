"""Parts that do not fit are refused when they are put together, not when they are first asked."""

import pytest

from foveal.core import outside
from foveal.core.errors import InputError
from foveal.models.assembly import assemble
from foveal.models.config import ModelConfig
from tests.models.test_contract import SMALL

LANGUAGE = {"vocabulary": 20, "width": 16, "depth": 2, "heads": 2}


def made(**parts):
    given = {"vision": "vit", "connector": "linear", "fusion": "prefix", "language": "decoder", **parts}
    rooms = {
        room: {"name": part, **SMALL.get(part, {})} if room in ("vision", "connector", "fusion") and part else part
        for room, part in given.items()
    }
    return assemble(ModelConfig.parse({**rooms, "language": {"name": given["language"], **LANGUAGE}}))


@pytest.mark.parametrize(("vision", "width"), [("tiled_vit", 32), ("efficientnet_lite", 112)])
@pytest.mark.parametrize("fusion", ["prefix", "gated_cross_attention", "dense_sparse"])
def test_no_connector_between_other_widths_is_refused(vision, width, fusion):
    with pytest.raises(InputError, match=f"connector is null, vision '{vision}' has width {width}, and the fusion rea"):
        made(vision=vision, connector=None, fusion=fusion)


def test_no_connector_between_equal_widths_is_none():
    assert made(connector=None).connector is None


@pytest.mark.parametrize(
    "connector", ["pixel_shuffle", "window_concat", "average_pool", "patch_merger", "conv_mlp", "placed"]
)
def test_a_connector_that_wants_a_grid_is_refused_where_there_is_none(connector):
    told = f"vision 'tiled_vit' lays its tokens on no grid, and connector '{connector}' wants one; take mlp"
    with pytest.raises(InputError, match=told):
        made(vision="tiled_vit", connector=connector)


@pytest.mark.parametrize("fusion", ["co_attention", "cross_modality"])
def test_a_language_model_that_does_not_say_what_is_valid_is_refused(fusion):
    told = f"fusion '{fusion}' asks which tokens are valid, and language 'multiway' does not tell; take 'encoder'"
    with pytest.raises(InputError, match=told):
        made(fusion=fusion, language="multiway", assembly="masked", heads={"words": "masked_language"})


@pytest.mark.parametrize("fusion", ["prefix", "deepstack", "single_stream", "co_attention"])
def test_a_masked_model_refuses_a_memory_that_nobody_fills(fusion):
    told = f"fusion '{fusion}' and language 'sequence_decoder' differ on who looks at the images"
    with pytest.raises(InputError, match=told):
        made(fusion=fusion, language="sequence_decoder", assembly="masked", heads={"words": "masked_language"})


WORDLESS = """
from foveal.language.decoder import Config as Config
from foveal.language.decoder import Decoder


class Wordless(Decoder):
    def __init__(self, **settings):
        super().__init__(**settings)
        self.table = self.embedding
        del self.embedding
"""


@pytest.fixture
def wordless(tmp_path, monkeypatch):
    """Installs a language model of another package whose table of words has another name."""
    folder = tmp_path / "strangers-1.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: strangers\nVersion: 1\n")
    (folder / "entry_points.txt").write_text("[foveal.language]\nwordless = strangers_wordless\n")
    (tmp_path / "strangers_wordless.py").write_text(WORDLESS)
    monkeypatch.syspath_prepend(tmp_path)
    outside.outside.cache_clear()
    yield
    monkeypatch.undo()
    outside.outside.cache_clear()


@pytest.mark.parametrize("assembly", ["causal", "masked"])
def test_a_language_model_without_its_table_of_words_is_told(wordless, assembly):
    more = {"heads": {"words": "masked_language"}} if assembly == "masked" else {"head": "language_model"}
    told = f"language 'wordless' is unfit for a {assembly} model: Wordless lacks an embedding with a weight"
    with pytest.raises(InputError, match=told) as error:
        made(language="wordless", assembly=assembly, **more)
    assert "\n" not in str(error.value)


def test_a_two_tower_model_without_heads_says_so():
    with pytest.raises(InputError, match="a two_tower model has no heads; name at least one of pair, write, matching"):
        made(language="qformer", assembly="two_tower")
