from foveal.core.example import Box
from foveal.evaluation.metrics.average_precision import precision, results, truth


def test_cocos_own_tool_stands_among_the_metrics():
    """By hand: one of two objects found, surely, is an AP of one half (the precision of 51 recalls of 101)."""
    boxes = [Box(label="dog", xyxy=(10.0, 10.0, 60.0, 60.0)), Box(label="dog", xyxy=(70.0, 10.0, 95.0, 60.0))]
    there = truth([(1, (100, 80))], [boxes], ["dog"])
    found = [Box(label="dog", xyxy=(10.0, 10.0, 60.0, 60.0), score=0.9)]
    assert abs(precision(there, results([1], [found], {"dog": 1})).summary["AP"] - 51 / 101) < 1e-6
