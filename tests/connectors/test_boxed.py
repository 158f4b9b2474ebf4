import torch
import torch.nn.functional as F

from foveal.connectors.boxed import Boxed
from foveal.core.types import Layout, VisualTokens


def test_features_and_boxes_count_alike():
    torch.manual_seed(0)
    connector, features = Boxed(width_in=3, width_out=5), torch.randn(4, 3)
    visual = VisualTokens.on_layout(features, Layout.of_grids([(2, 2)]))
    told = connector(visual).features
    parts = [
        F.layer_norm(m(of), (5,), eps=1e-12) for m, of in ((connector.map, features), (connector.box_map, visual.boxes))
    ]
    torch.testing.assert_close(told, (parts[0] + parts[1]) / 2)
