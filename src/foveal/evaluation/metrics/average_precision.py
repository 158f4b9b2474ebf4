"""COCO's average precision of boxes, masks and keypoints, by its own tool (1405.0312): `evaluation.detection`."""

from foveal.evaluation.detection import Precision, precision, results, truth

__all__ = ["Precision", "precision", "results", "truth"]
