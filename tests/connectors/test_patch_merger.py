import pytest
import torch
import torch.nn.functional as F

from foveal.connectors.patch_merger import PatchMerger
from foveal.core.errors import InputError
from foveal.core.types import Layout, VisualTokens


@pytest.mark.parametrize("norm", ["before", "after"])
def test_neighbours_are_normed_joined_and_mapped(norm):
    torch.manual_seed(0)
    merger = PatchMerger(width_in=3, width_out=5, norm=norm)
    for part in (merger.before, merger.after):
        for weight in part.parameters():
            torch.nn.init.normal_(weight)
    layout = Layout.of_grids([(2, 4)])
    visual = VisualTokens.on_layout(torch.randn(8, 3), layout)
    one = [0, 1, 4, 5]  # the first block of two rows of four
    if norm == "before":
        joined = F.layer_norm(visual.features[one], (3,), merger.before.weight, merger.before.bias, 1e-6).flatten()
    else:
        joined = F.layer_norm(visual.features[one].flatten(), (12,), merger.after.weight, merger.after.bias, 1e-6)
    expected = merger.down(F.gelu(merger.up(joined)))
    merged = merger(visual)
    torch.testing.assert_close(merged.features[0], expected)
    assert merged.layout == Layout.of_grids([(1, 2)]) and merged.mass.tolist() == [4, 4]


def test_the_norm_may_be_of_another_kind():
    torch.manual_seed(0)
    merger = PatchMerger(width_in=3, width_out=5, kind="rms", eps=1e-3)
    torch.nn.init.normal_(merger.before.weight)
    visual = VisualTokens.on_layout(torch.randn(4, 3), Layout.of_grids([(2, 2)]))
    joined = F.rms_norm(visual.features, (3,), merger.before.weight, 1e-3).flatten()
    torch.testing.assert_close(merger(visual).features[0], merger.down(F.gelu(merger.up(joined))))


def test_a_factor_of_nothing_is_refused():
    with pytest.raises(InputError, match="patch_merger has a factor of 0"):
        PatchMerger(width_in=3, width_out=5, factor=0)
