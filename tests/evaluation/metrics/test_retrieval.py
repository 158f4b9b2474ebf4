import numpy as np
import pytest

from foveal.core.errors import InputError
from foveal.evaluation.metrics.retrieval import both_ways, recall


def test_by_hand():
    similarity = np.array([[0.9, 0.1, 0.5], [0.8, 0.7, 0.1]])
    relevant = np.array([[True, False, False], [False, True, False]])
    assert recall(similarity, relevant, at=(1, 2)) == {"R@1": 0.5, "R@2": 1.0}


def test_any_of_an_images_captions_will_do():
    """The ranks that COCO's retrieval takes: the best of an image's captions, and a caption's one image."""
    random = np.random.default_rng(0)
    similarity, owner = random.normal(size=(20, 100)), np.arange(100) // 5
    found = both_ways(similarity, owner)
    order = (-similarity).argsort(1)
    ranks = np.array([min(np.flatnonzero(owner[order[i]] == i)) for i in range(20)])
    backs = np.array([np.flatnonzero((-similarity[:, j]).argsort() == owner[j])[0] for j in range(100)])
    for k in (1, 5, 10):
        assert found[f"image_to_text_R@{k}"] == pytest.approx((ranks < k).mean())
        assert found[f"text_to_image_R@{k}"] == pytest.approx((backs < k).mean())


def test_a_model_that_tells_nothing_apart_finds_nothing():
    assert both_ways(np.zeros((11, 11)), np.arange(11)) == dict.fromkeys(both_ways(np.eye(11), np.arange(11)), 0.0)


def test_mistakes():
    with pytest.raises(InputError, match="query 1 has a similarity of NaN, which ranks nothing; give numbers"):
        recall(np.array([[1.0, 0.0], [0.0, np.nan]]), np.eye(2, dtype=bool))
    with pytest.raises(InputError, match="query 1 has nothing relevant"):
        recall(np.eye(2), np.array([[True, False], [False, False]]))
    with pytest.raises(InputError, match=r"similarity of shape \(2, 2\) but relevance of \(2, 3\)"):
        recall(np.eye(2), np.ones((2, 3), bool))


@pytest.mark.parametrize("shape", [(0, 0), (0, 3)])
def test_nothing_to_compare_is_told(shape):
    with pytest.raises(InputError, match="compares nothing"):
        recall(np.zeros(shape), np.zeros(shape, bool))
