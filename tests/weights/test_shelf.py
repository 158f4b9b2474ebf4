import copy
import io
import mmap
from pathlib import Path

import torch

from foveal.weights.shelf import LEAST, Shelf, room

LARGE = (1 << 10, LEAST >> 13)  # two of them, in float32, are the least that is worth a shelf


def shelved(*tensors, dtype=torch.float32):
    shelf = Shelf(sum(room(tensor.numel(), dtype) for tensor in tensors))
    return [shelf.put(tensor, dtype) for tensor in tensors]


def test_tensors_keep_their_numbers_and_lie_behind_each_other_where_torch_would_align_them():
    torch.manual_seed(0)
    given = torch.randn(LARGE), torch.randn(3), torch.randn(()), torch.zeros(0, 5), torch.randn(LARGE).t()
    put = shelved(*given)
    for mine, one in zip(put, given, strict=True):
        assert torch.equal(mine, one) and mine.is_contiguous() and mine.shape == one.shape
    places = [one.data_ptr() for one in put if one.numel()]
    assert places == sorted(places) and not any(place % 64 for place in places)
    assert places[0] % (2 << 20) == 0 and places[-1] - places[0] < LEAST  # one stretch, from a page's beginning


def test_a_shelf_casts_as_torch_does():
    given = torch.randn(LARGE).double(), torch.randn(LARGE).double() * 1e5
    for mine, one in zip(shelved(*given, *given, dtype=torch.bfloat16), given * 2, strict=True):
        assert torch.equal(mine, one.to(torch.bfloat16))


def test_what_is_put_is_a_copy_with_a_storage_of_its_own_that_outlives_the_shelf():
    first, second = torch.randn(LARGE), torch.randn(LARGE)
    kept = first.clone()
    one, two = shelved(first, second)
    first.zero_()
    two.fill_(7.0)
    assert torch.equal(one, kept)
    assert one.untyped_storage().nbytes() == 4 * one.numel()
    held = io.BytesIO()
    torch.save(one, held)
    assert held.tell() < 1.1 * 4 * one.numel()  # not the whole shelf
    assert torch.equal(copy.deepcopy(one), kept)


def test_little_is_put_where_torch_puts_it():
    given = torch.randn(8, 8)
    (mine,) = shelved(given)
    assert torch.equal(mine, given) and mine.data_ptr() != given.data_ptr()


def test_the_kernel_is_asked_for_large_pages_where_it_has_them(monkeypatch):
    first, _ = shelved(torch.randn(LARGE), torch.randn(LARGE))
    assert not hasattr(mmap, "MADV_HUGEPAGE") or "hg" in flags(first)
    monkeypatch.delattr(mmap, "MADV_HUGEPAGE", raising=False)
    given = torch.randn(LARGE), torch.randn(LARGE)
    assert all(torch.equal(mine, one) for mine, one in zip(shelved(*given), given, strict=True))


def flags(tensor):
    """What Linux says of the stretch of memory in which a tensor lies."""
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        head, *rest = line.split()
        if ":" not in head:
            begin, end = (int(part, 16) for part in head.split("-"))
            inside = begin <= tensor.data_ptr() < end
        elif inside and head == "VmFlags:":
            return rest
    raise AssertionError("no stretch of memory holds the tensor")
