import pytest
import torch

from foveal.relevance.balancing import Balancer, Tensions
from foveal.relevance.knowing import aloof, coupling, entropy, information, received, surprise


def features(seed=0, grid=(6, 6), width=5):
    return torch.randn(1, grid[0] * grid[1], width, generator=torch.Generator().manual_seed(seed))


def test_information_is_half_the_log_determinant_of_the_neighbourhoods_covariance():
    given = features()
    found = information(given, (6, 6))[0]
    for row, column in [(0, 0), (2, 3), (5, 1)]:
        near = [
            given[0, r * 6 + c] for r in range(row - 1, row + 2) for c in range(column - 1, column + 2)
            if 0 <= r < 6 and 0 <= c < 6
        ]  # fmt: skip
        some = torch.stack(near)
        covariance = torch.cov(some.T, correction=0)
        noise = given[0].var(0, correction=0).mean()
        known = 0.5 * torch.logdet(torch.eye(5) + covariance / noise)
        assert found[row * 6 + column] == pytest.approx(known.item(), abs=1e-4)
    flat = torch.ones(1, 36, 5)
    assert information(flat, (6, 6)).abs().max() == 0


def test_information_and_surprise_do_not_hang_on_the_scale_of_features():
    given = features()
    for way in (information, surprise):
        torch.testing.assert_close(way(1000 * given, (6, 6)), way(given, (6, 6)), atol=1e-4, rtol=1e-4)


def test_what_differs_from_around_stands_out():
    given = torch.zeros(1, 49, 3)
    given[0, 24] = 1
    assert int(surprise(given, (7, 7)).argmax()) == 24
    assert surprise(torch.ones(1, 1, 3), (1, 1)).tolist() == [[0.0]]


def test_entropy_is_in_nats():
    assert entropy(torch.tensor([[[0.25] * 4, [1.0, 0, 0, 0]]])).tolist() == [[pytest.approx(1.3862944), 0.0]]


def test_sinks_receive_no_more_than_is_usual():
    attention = torch.full((1, 8), 0.05)
    attention[0, 3] = 0.65
    attention[0, 5] = 0.1
    got = received(attention)[0]
    assert int(got.argmax()) == 5 and got[3] == got[0]


def test_coupling_follows_the_question_and_is_nothing_without_one():
    given = torch.eye(4)[None]
    words = torch.stack([torch.eye(4)[2:3], torch.zeros(1, 4)])
    valid = torch.tensor([[True], [False]])
    found = coupling(given.expand(2, -1, -1), words, valid, empty=torch.ones(4))
    assert int(found[0].argmax()) == 2 and not found[1].any()
    turned = coupling(given, words[:1], valid[:1], sign=-1.0)
    torch.testing.assert_close(turned, -coupling(given, words[:1], valid[:1]))


def test_an_image_alone_is_as_in_a_batch():
    given = torch.cat([features(seed) for seed in range(3)])
    for way in (information, surprise):
        torch.testing.assert_close(way(given, (6, 6))[1:2], way(given[1:2], (6, 6)))


def test_half_precision_knows_as_much():
    given = 10 * torch.randn(1, 36, 1024, generator=torch.Generator().manual_seed(0))
    for way in (information, surprise):
        torch.testing.assert_close(way(given.half(), (6, 6)).float(), way(given, (6, 6)), atol=1e-2, rtol=1e-2)


@pytest.mark.parametrize(("grid", "reach"), [((1, 1), 2), ((1, 7), 2), ((3, 2), 2), ((6, 9), 1), ((6, 9), 2)])
def test_surprise_is_how_far_a_patch_is_from_the_mean_of_those_around_it(grid, reach):
    rows, columns = grid
    features = torch.randn(2, rows * columns, 5, generator=torch.Generator().manual_seed(0))
    found = surprise(features, grid, reach=reach)
    for image, own in enumerate(features):
        scale = (own - own.mean(0)).square().sum(-1).mean().clamp(min=1e-12).sqrt()
        for at in range(rows * columns):
            near = [
                y * columns + x
                for y in range(rows)
                for x in range(columns)
                if max(abs(y - at // columns), abs(x - at % columns)) <= reach and y * columns + x != at
            ]
            wanted = (own[at] - own[near].mean(0)).norm() / scale if near else torch.tensor(0.0)
            torch.testing.assert_close(found[image, at], wanted, atol=1e-5, rtol=1e-4)


def test_autocast_knows_the_same():
    given, words, valid = features(), torch.randn(1, 3, 5), torch.ones(1, 3, dtype=torch.bool)

    def known():
        return [information(given, (6, 6)), surprise(given, (6, 6)), coupling(given, words, valid, empty=words[0, 0])]

    plain = known()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert all(torch.equal(*pair) for pair in zip(known(), plain, strict=True))
    assert coupling(given.to("meta"), words.to("meta"), valid.to("meta")).shape == (1, 36)
    assert information(given.to("meta"), (6, 6)).shape == (1, 36)


@pytest.mark.parametrize("size", [1e-6, 1.0, 20.0])
def test_nothing_stands_out_of_features_that_are_alike_but_for_rounding(size):
    """Of a picture of one colour no patch is worth more than another."""
    grid, width = (7, 9), 64
    one = size * torch.randn(1, 1, width, generator=torch.Generator().manual_seed(0))
    given = (one * torch.ones(1, 63, 1)).requires_grad_()
    maps = torch.stack([information(given, grid), surprise(given, grid), aloof(given)], 1)
    assert maps.eq(0).all() and maps.sum().backward() is None and given.grad.isfinite().all()
    torch.testing.assert_close(63 * Balancer()(maps, Tensions(explore=0.0)), torch.ones(1, 63))


def test_what_is_faint_stands_out_as_clearly():
    given, grid = torch.randn(1, 36, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)), (6, 6)
    faint = (1000 + given).float()  # a thousandth of the size, of which rounding takes a ten-thousandth
    for way in (surprise, lambda features, grid: aloof(features)):
        torch.testing.assert_close(way(faint, grid), way(given.float(), grid), atol=1e-3, rtol=1e-3)
