import pytest
import torch

from foveal.layers.precision import own_dtype


def test_products_keep_their_dtype_under_autocast():
    values = torch.randn(4, 4, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (values @ values).dtype == torch.bfloat16
        with own_dtype(values):
            assert torch.equal(values @ values, values.mm(values)) and (values @ values).dtype == torch.float32
        assert (values @ values).dtype == torch.bfloat16


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_no_device_refuses(device):
    values = torch.ones(2, 2, device=device)
    with own_dtype(values):
        assert (values @ values).dtype == torch.float32


def test_it_is_compiled_with_what_it_holds():
    def squared(values):
        with own_dtype(values):
            return values @ values

    values = torch.randn(3, 3, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(torch.compile(squared, backend="eager", fullgraph=True)(values), squared(values))
