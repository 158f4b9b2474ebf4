import torch

from foveal.layers.cross_attention import CrossAttention
from foveal.layers.mlp import FeedForward
from foveal.layers.norms import norms
from foveal.layers.perceiver import PerceiverLayer, Resampler


def resampler(*, latents=3, depth=2, width=8):
    torch.manual_seed(0)
    make = norms("layer", eps=1e-5)

    def layer():
        attention = CrossAttention(width=width, heads=2, inner=12, bias=False)
        feed = FeedForward(width=width, inner=16, activation="gelu", bias=False)
        return PerceiverLayer(width=width, attention=attention, feed=feed, norm=make)

    return Resampler(width=width, latents=latents, layers=[layer() for _ in range(depth)], norm=make(width))


def test_one_layer_is_the_formula():
    layer = resampler(depth=1).layers[0]
    latents, tokens = torch.randn(2, 3, 8), torch.randn(2, 5, 8)
    asking = layer.latent_norm(latents)
    seen = torch.cat([layer.token_norm(tokens), asking], 1)
    heads = [part.unflatten(-1, (2, 6)).transpose(1, 2) for part in (
        layer.attention.query(asking), layer.attention.key(seen), layer.attention.value(seen)
    )]  # fmt: skip
    mixed = (heads[0] @ heads[1].transpose(-1, -2) * 6**-0.5).softmax(-1) @ heads[2]
    expected = latents + layer.attention.out(mixed.transpose(1, 2).flatten(2))
    expected = expected + layer.feed(layer.feed_norm(expected))
    torch.testing.assert_close(layer(latents, tokens), expected, atol=1e-6, rtol=1e-5)


def test_masked_tokens_say_nothing_and_any_number_gives_as_many_latents():
    model, tokens = resampler(), torch.randn(2, 5, 8)
    mask = torch.tensor([[True] * 5, [True, True, False, False, False]])[:, None, None]
    gathered = model(tokens, mask=mask)
    assert gathered.shape == (2, 3, 8)
    torch.testing.assert_close(gathered[1:], model(tokens[1:, :2]), atol=1e-6, rtol=1e-5)
    assert model(tokens[:, :0]).shape == (2, 3, 8)
    torch.testing.assert_close(model(tokens, mask=mask & False), model(tokens[:, :0]), atol=1e-6, rtol=1e-5)


def test_the_order_of_tokens_does_not_matter():
    model, tokens = resampler(), torch.randn(1, 5, 8)
    torch.testing.assert_close(model(tokens.flip(1)), model(tokens), atol=1e-6, rtol=1e-5)
