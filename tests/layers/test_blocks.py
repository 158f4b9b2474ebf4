import torch

from foveal.layers.blocks import Block


def test_attends_and_feeds_beside_residuals():
    torch.manual_seed(0)
    block = Block(width=8, heads=2, inner=12, activation="gelu", eps=1e-6)
    hidden = torch.randn(2, 3, 8)
    attended = hidden + block.attention(block.attention_norm(hidden))
    torch.testing.assert_close(block(hidden), attended + block.feed(block.feed_norm(attended)))


def test_a_gated_block_adds_what_its_gates_let_through():
    torch.manual_seed(0)
    settings = {"width": 8, "heads": 2, "inner": 12, "activation": "gelu", "eps": 1e-5, "bias": False}
    plain, gated, hidden = Block(**settings), Block(**settings, gate=0.0), torch.randn(2, 3, 8)
    assert plain.attention.query.bias is None and plain.attention.out.bias is None
    assert torch.equal(gated(hidden), hidden)
    gated.load_state_dict(plain.state_dict(), strict=False)
    with torch.no_grad():
        gated.attention_gate.weight.fill_(50.0)
        gated.feed_gate.weight.fill_(50.0)
    torch.testing.assert_close(gated(hidden), plain(hidden))


def test_norms_and_feed_forwards_of_other_kinds():
    torch.manual_seed(0)
    settings = {"width": 8, "heads": 2, "inner": 12, "activation": "silu", "eps": 1e-5}
    block = Block(**settings, norm="rms", gated=True, bias=False, feed_bias=False)
    assert [name for name, _ in block.named_parameters() if name.endswith("bias")] == []
    hidden = torch.randn(2, 3, 8)
    scaled = hidden * (hidden.square().mean(-1, keepdim=True) + 1e-5).rsqrt()
    attended = hidden + block.attention(scaled)
    scaled = attended * (attended.square().mean(-1, keepdim=True) + 1e-5).rsqrt()
    fed = block.feed.down(torch.nn.functional.silu(block.feed.gate(scaled)) * block.feed.up(scaled))
    torch.testing.assert_close(block(hidden), attended + fed)
