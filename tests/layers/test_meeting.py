import torch

from foveal.layers.meeting import Meeting, itself, places_of


def test_what_is_found_is_added_and_normed_and_nothing_is_found_in_nothing():
    torch.manual_seed(0)
    meeting = Meeting(width=8, heads=2, eps=1e-12, inner=4, memory_width=6)
    hidden, other = torch.randn(2, 3, 8), torch.randn(2, 5, 6)
    mask = torch.tensor([[True, True, False, False, False], [False] * 5])[:, None, None]
    told = meeting(hidden, other, mask=mask)
    found = meeting.attention(hidden[:1], meeting.attention.read(other[:1, :2]))
    torch.testing.assert_close(told[:1], meeting.norm(hidden[:1] + found), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(told[1:], meeting(hidden[1:], None, mask=None))


def test_places_come_in_order_and_those_of_shorter_rows_are_filled():
    wanted = torch.tensor([[False, True, False, True], [True, False, False, False]])
    assert places_of(wanted).tolist() == [[1, 3], [0, 1]]
    assert places_of(torch.zeros(2, 4, dtype=torch.bool)).shape == (2, 1)


def test_exported_places_are_as_many_as_a_limit_says():
    class Places(torch.nn.Module):
        def forward(self, wanted):
            return places_of(wanted, limit=2), places_of(wanted)

    wanted = torch.tensor([[False, True, False, True], [True, False, False, False]])
    limited, whole = torch.export.export(Places(), (wanted,)).module()(wanted)
    assert limited.tolist() == [[1, 3], [0, 1]] and whole.tolist() == [[1, 3, 0, 2], [0, 1, 2, 3]]


def test_padding_sees_itself_where_it_sees_nothing_else():
    assert itself(torch.tensor([[[[True, False]]]])).tolist() == [[[[True, False], [True, False]]]]
    assert itself(torch.tensor([[[[False, False]]]])).tolist() == [[[[True, False], [False, True]]]]
