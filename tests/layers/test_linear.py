import copy

import jaxtyping
import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode

from foveal.layers import linear as linear_file
from foveal.layers.linear import Linear, activated, linear, plain
from foveal.layers.mlp import FeedForward, activation_of

AMD = linear_file.amd
INPUTS = {
    "plain": lambda: torch.randn(3, 40, 200),
    "transposed": lambda: torch.randn(40, 3, 200).transpose(0, 1),
    "expanded": lambda: torch.randn(1, 1, 200).expand(3, 40, 200),
    "every second": lambda: torch.randn(3, 40, 400)[..., ::2],
    "slice": lambda: torch.randn(3, 40, 400)[..., 100:300],
    "one vector": lambda: torch.randn(200),
    "none": lambda: torch.randn(0, 200),
}


@pytest.fixture(autouse=True)
def onednn(monkeypatch):
    """These take the other way on any processor: it is everywhere right, if not everywhere faster."""
    monkeypatch.setattr(linear_file, "amd", lambda: True)


def results(function, hidden, weight, bias):
    """Output and gradients of a weighted sum."""
    hidden, weight, bias = (part.detach().requires_grad_() for part in (hidden, weight, bias))
    output = function(hidden, weight, bias)
    torch.manual_seed(1)
    return (output, *torch.autograd.grad(output, (hidden, weight, bias), torch.randn_like(output)))


@pytest.mark.parametrize("name", INPUTS)
@pytest.mark.parametrize("gaps", [False, True])
def test_equals_torch_forward_and_backward(name, gaps):
    torch.manual_seed(0)
    weight = torch.randn(1000, 300)[:, :200] if gaps else torch.randn(1000, 200)
    hidden, bias = INPUTS[name](), torch.randn(1000)
    for ours, theirs in zip(
        results(linear, hidden, weight, bias), results(F.linear, hidden, weight, bias), strict=True
    ):
        torch.testing.assert_close(ours, theirs, atol=2e-4, rtol=1e-5)


def took_onednn(monkeypatch, call):
    calls = []
    monkeypatch.setattr(linear_file, "_multiply", lambda *given: calls.append(given) or F.linear(*given))
    call()
    return bool(calls)


def test_large_float32_goes_through_onednn_and_nothing_else(monkeypatch):
    large, small, tokens = Linear(512, 512), Linear(32, 32), torch.randn(1, 1, 512)
    assert took_onednn(monkeypatch, lambda: large(tokens))
    assert took_onednn(monkeypatch, lambda: small(torch.randn(2000, 32)))
    assert not took_onednn(monkeypatch, lambda: small(torch.randn(3, 32)))
    assert not took_onednn(monkeypatch, lambda: large.double()(tokens.double()))
    large.float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not took_onednn(monkeypatch, lambda: large(tokens))
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)
    assert not took_onednn(monkeypatch, lambda: large(tokens))


FEW = {
    "one token": lambda: torch.randn(1, 1, 200),
    "one vector": lambda: torch.randn(200),
    "two rows": lambda: torch.randn(2, 1, 200),
    "with gaps": lambda: torch.randn(3, 400)[:, ::2],
    "expanded": lambda: torch.randn(1, 1, 200).expand(2, 3, 200),
}


def took_parts(monkeypatch, call):
    calls, parts = [], linear_file._by_parts
    monkeypatch.setattr(linear_file, "_by_parts", lambda *given: calls.append(given) or parts(*given))
    made = call()
    monkeypatch.setattr(linear_file, "_by_parts", parts)
    return made, bool(calls)


@pytest.mark.parametrize("name", FEW)
@pytest.mark.parametrize("bias", [True, False])
@torch.no_grad()
def test_a_few_tokens_read_the_weight_by_its_parts(monkeypatch, name, bias):
    torch.manual_seed(0)
    layer, hidden = Linear(200, 1000, bias=bias), FEW[name]()
    made, parts = took_parts(monkeypatch, lambda: layer(hidden))
    assert parts and made.is_contiguous()
    torch.testing.assert_close(made, F.linear(hidden, layer.weight, layer.bias), atol=2e-6, rtol=1e-5)


def test_not_by_parts_where_that_is_slower_or_wrong(monkeypatch):
    layer = Linear(200, 1000).requires_grad_(False)
    for other, hidden in (
        (layer, torch.randn(9, 200)),  # many tokens
        (Linear(3200, 64).requires_grad_(False), torch.randn(1, 3200)),  # wide ones
        (layer, torch.randn(0, 200)),
        (layer, torch.randn(1, 200, requires_grad=True)),  # no gradients are lost, but no time is won
        (Linear(200, 1001).requires_grad_(False), torch.randn(1, 200)),  # no equal parts
        (Linear(160, 160).requires_grad_(False), torch.randn(1, 160)),
    ):
        made, parts = took_parts(monkeypatch, lambda other=other, hidden=hidden: other(hidden))
        assert not parts
        torch.testing.assert_close(made, F.linear(hidden, other.weight, other.bias), atol=2e-6, rtol=1e-5)
    gaps = torch.randn(1000, 300)[:, :200]
    assert not took_parts(monkeypatch, lambda: linear(torch.randn(1, 200), gaps))[1]


def test_fake_tensors_keep_their_shapes():
    with FakeTensorMode():
        assert Linear(512, 700)(torch.empty(2, 512)).shape == (2, 700)


def test_frozen_weights_let_gradients_through():
    torch.manual_seed(0)
    layer, hidden = Linear(512, 400), torch.randn(4, 512, requires_grad=True)
    layer.requires_grad_(False)
    layer(hidden).sum().backward()
    torch.testing.assert_close(hidden.grad, layer.weight.sum(0).expand(4, -1), atol=1e-4, rtol=1e-5)
    assert layer.weight.grad is None


def test_exports_as_a_plain_linear_map():
    layer = Linear(512, 400).eval()
    program = torch.export.export(layer, (torch.randn(2, 512),))
    assert {str(node.target) for node in program.graph.nodes if node.op == "call_function"} == {"aten.linear.default"}


@pytest.mark.parametrize(
    ("told", "amd", "family"),
    [
        ("vendor_id\t: AuthenticAMD\ncpu family\t: 26\nmodel\t\t: 2\n", True, 26),
        ("vendor_id\t: AuthenticAMD\ncpu family\t: 25\nmodel\t\t: 17\n", True, 25),
        ("vendor_id\t: GenuineIntel\ncpu family\t: 6\n", False, 6),
        ("AMD64 Family 26 Model 68 Stepping 0, AuthenticAMD", True, 26),
        ("arm", False, 0),
    ],
)
def test_processors_are_told_apart(monkeypatch, told, amd, family):
    monkeypatch.setattr(linear_file, "amd", AMD)
    monkeypatch.setattr(linear_file, "_processor", lambda: told)
    assert (linear_file.amd(), linear_file.generation()) == (amd, family)
    fast = torch.backends.mkldnn.is_available() and amd and family == 26
    assert linear_file.onednn_is_twice_as_fast() == fast


@pytest.mark.parametrize("name", ["gelu", "gelu_tanh", "gelu_pytorch_tanh", "gelu_new", "relu"])
def test_a_map_and_its_activation_in_one_pass(name):
    torch.manual_seed(0)
    up, hidden = Linear(200, 1000), 3 * torch.randn(3, 40, 200)
    with torch.no_grad():
        made = activated(up, hidden, name)
        assert made is not None
        torch.testing.assert_close(made, activation_of(name)(up(hidden)), atol=2e-6, rtol=1e-5)


def test_one_pass_beside_a_product_that_is_as_fast(monkeypatch):
    torch.manual_seed(0)
    up, hidden = Linear(512, 2048).eval(), torch.randn(2, 16, 512)
    monkeypatch.setattr(linear_file, "amd", lambda: False)
    monkeypatch.setattr(linear_file, "_processor", lambda: "vendor_id\t: GenuineIntel\nflags\t\t: avx2 avx512f\n")
    with torch.no_grad():
        made = activated(up, hidden, "gelu_tanh")
        assert made is not None
        torch.testing.assert_close(made, activation_of("gelu_tanh")(up(hidden)), atol=2e-6, rtol=1e-5)
        assert activated(up, hidden[:1, :7], "gelu_tanh") is None  # a few tokens
        assert activated(Linear(64, 64), torch.randn(99, 64), "gelu_tanh") is None  # little work
        assert not took_onednn(monkeypatch, lambda: up(hidden))
        monkeypatch.setattr(linear_file, "_processor", lambda: "vendor_id\t: GenuineIntel\nflags\t\t: avx2\n")
        assert activated(up, hidden, "gelu_tanh") is None


HALF = torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()


@pytest.mark.parametrize("name", ["gelu", "gelu_tanh", "relu", "silu", "swish"])
def test_in_bfloat16_a_map_and_its_activation_are_rounded_once(monkeypatch, name):
    torch.manual_seed(0)
    up, hidden = Linear(512, 2048).bfloat16(), torch.randn(2, 16, 512).bfloat16()
    exact = activation_of(name)(F.linear(hidden.float(), up.weight.float(), up.bias.float()))
    with torch.no_grad():
        made = activated(up, hidden, name)
        assert (made is not None) == HALF
        if made is not None:
            apart = activation_of(name)(F.linear(hidden, up.weight, up.bias))
            error, usual = ((one.float() - exact).abs().mean() for one in (made, apart))
            assert made.dtype == torch.bfloat16 and error <= 1.05 * usual
        assert activated(up, hidden[:1, :7], name) is None  # a few tokens
        monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)
        assert activated(up, hidden, name) is None


@pytest.mark.parametrize("bias", [True, False])
def test_one_vector_in_bfloat16(monkeypatch, bias):
    torch.manual_seed(0)
    layer, seen, of_one = Linear(200, 300, bias=bias).bfloat16(), [], linear_file._of_one
    monkeypatch.setattr(linear_file, "_of_one", lambda *given: seen.append(given) or of_one(*given))
    monkeypatch.setattr(linear_file, "_processor", lambda: "vendor_id\t: GenuineIntel\nflags\t\t: avx2 avx512f\n")
    for shape in ((200,), (1, 200), (1, 1, 200)):
        hidden = torch.randn(shape).bfloat16()
        exact = F.linear(hidden.float(), layer.weight.float(), layer.bias.float() if bias else None)
        with torch.no_grad():
            made = layer(hidden)
        torch.testing.assert_close(made, exact.bfloat16(), atol=1e-3, rtol=1e-2)
    assert len(seen) == 3
    assert layer(hidden).requires_grad  # a gradient wants the weight
    with torch.no_grad():
        assert layer(torch.randn(2, 200).bfloat16()).shape == (2, 300)
        assert linear(torch.randn(1, 200).bfloat16(), torch.randn(300, 400).bfloat16()[:, :200]).shape == (1, 300)
        assert linear(torch.randn(1, 200), torch.randn(300, 200)).shape == (1, 300)
        monkeypatch.setattr(linear_file, "_processor", lambda: "vendor_id\t: AuthenticAMD\nflags\t\t: avx512f\n")
        layer(hidden)
    assert len(seen) == 3


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("tokens", [2, 5, 16])
def test_a_few_tokens_in_bfloat16_before_a_large_weight(monkeypatch, bias, tokens):
    torch.manual_seed(0)
    layer, seen, turned = Linear(512, 2048, bias=bias).bfloat16(), [], linear_file._turned
    monkeypatch.setattr(linear_file, "_turned", lambda *given: seen.append(given) or turned(*given))
    monkeypatch.setattr(linear_file, "_processor", lambda: "vendor_id\t: GenuineIntel\nflags\t\t: avx2 avx512f\n")
    hidden = torch.randn(tokens, 1, 512).bfloat16()
    exact = F.linear(hidden.float(), layer.weight.float(), layer.bias.float() if bias else None)
    with torch.no_grad():
        made = layer(hidden)
        torch.testing.assert_close(made, exact.bfloat16(), atol=1e-3, rtol=1e-2)
        assert len(seen) == 1 and made.is_contiguous()
        assert layer(torch.randn(17, 512).bfloat16()).shape == (17, 2048)
        assert Linear(512, 64).bfloat16()(hidden).shape == (tokens, 1, 64)
    assert layer(hidden).requires_grad and len(seen) == 1


@pytest.mark.parametrize("shape", [(2, 4), (2, 2, 4), (16,)])
@torch.no_grad()
def test_another_width_is_refused_in_bfloat16_too(monkeypatch, shape):
    monkeypatch.setattr(linear_file, "_processor", lambda: "vendor_id\t: GenuineIntel\nflags\t\t: avx2 avx512f\n")
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as for a user
    with pytest.raises(RuntimeError, match=r"shape|size"):
        Linear(8, 6).bfloat16()(torch.randn(shape).bfloat16())


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")  # of torch's own rules
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_forward_derivatives_pass_frozen_maps(dtype):
    torch.manual_seed(0)
    feed = FeedForward(width=256, inner=1024, activation="gelu").to(dtype).requires_grad_(False)
    given, way = (torch.randn(2, 64, 256).to(dtype) for _ in range(2))
    exact = copy.deepcopy(feed).double()
    wide = torch.func.jvp(exact, (given.double(),), (way.double(),))[1]
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            tangent = torch.func.jvp(feed, (given,), (way,))[1]
        torch.testing.assert_close(tangent.double(), wide, atol=0.03 if dtype == torch.bfloat16 else 1e-4, rtol=1e-2)


@pytest.mark.filterwarnings("ignore:.torch.jit.trace.*. is deprecated:DeprecationWarning")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")  # of lengths that are asked on the way
@torch.no_grad()
def test_blocks_can_be_traced_by_torch_jit(monkeypatch, dtype):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # who checks types asks tensors for numbers
    torch.manual_seed(0)
    block, hidden = FeedForward(width=64, inner=2048, activation="gelu").to(dtype), torch.randn(16, 64).to(dtype)
    traced = torch.jit.trace(block, (hidden,))
    other = torch.randn(16, 64).to(dtype)
    torch.testing.assert_close(traced(other), F.linear(F.gelu(block.up(other)), block.down.weight, block.down.bias))


def test_apart_where_one_pass_would_miss_something():
    class Scaled(Linear):
        def forward(self, input):
            return 2 * super().forward(input)

    up, hidden, heard = Linear(200, 1000), torch.randn(40, 200), []
    assert activated(up, hidden, "gelu") is None  # its weight learns
    with torch.no_grad():
        assert activated(up, hidden, "quick_gelu") is None
        assert activated(Scaled(200, 1000), hidden, "gelu") is None
        assert activated(up.double(), hidden.double(), "gelu") is None
        up.float()
        feed = FeedForward(width=200, inner=1000, activation="gelu")
        feed.up.register_forward_hook(lambda *_: heard.append(1))
        feed(hidden)
        assert heard == [1]
        before = FeedForward(width=200, inner=1000, activation="gelu")
        before.up.register_forward_pre_hook(lambda *_: heard.append(2))
        before(hidden)
        assert heard == [1, 2]
        patched = Linear(200, 1000)
        assert plain(patched)
        patched.forward = lambda hidden: hidden  # as libraries do that move weights about
        assert not plain(patched)
        everywhere = torch.nn.modules.module.register_module_forward_hook(lambda *_: None)
        assert not plain(Linear(2, 2))
        everywhere.remove()
