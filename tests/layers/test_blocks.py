import torch

from foveal.layers.blocks import Block


def test_attends_and_feeds_beside_residuals():
    torch.manual_seed(0)
    block = Block(width=8, heads=2, inner=12, activation="gelu", eps=1e-6)
    hidden = torch.randn(2, 3, 8)
    attended = hidden + block.attention(block.attention_norm(hidden))
    torch.testing.assert_close(block(hidden), attended + block.feed(block.feed_norm(attended)))
