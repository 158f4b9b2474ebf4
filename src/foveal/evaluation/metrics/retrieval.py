"""Recall at K: how often what belongs to a query is among the K most similar (the retrieval of COCO and Flickr30k)."""

from collections.abc import Sequence

import numpy as np

from foveal.core.errors import InputError


def recall(similarity: np.ndarray, relevant: np.ndarray, *, at: Sequence[int] = (1, 5, 10)) -> dict[str, float]:
    """R@K of queries over candidates, from `similarity[Q C]` and which candidates are `relevant[Q C]`.

    A query is found at K where one of its relevant ones is. Ties count against it: of equally similar ones the
    irrelevant stand first. Raises InputError where shapes differ or hold nothing, a similarity is NaN, or a query has
    nothing relevant.
    """
    if similarity.shape != relevant.shape or similarity.ndim != 2:
        raise InputError(
            f"similarity of shape {similarity.shape} but relevance of {relevant.shape}; give both as [Q C]"
        )
    if not similarity.size:
        raise InputError(f"similarity of shape {similarity.shape} compares nothing; give a query and a candidate")
    if (wrong := np.isnan(similarity).any(1)).any():
        raise InputError(f"query {int(wrong.argmax())} has a similarity of NaN, which ranks nothing; give numbers")
    if not relevant.any(1).all():
        raise InputError(f"query {int(relevant.any(1).argmin())} has nothing relevant; leave it out")
    best = np.where(relevant, similarity, -np.inf).max(1, keepdims=True)
    before = ((similarity >= best) & ~relevant).sum(1)
    return {f"R@{k}": float((before < k).mean()) for k in at}


def both_ways(similarity: np.ndarray, owner: np.ndarray, *, at: Sequence[int] = (1, 5, 10)) -> dict[str, float]:
    """R@K from images to texts and back, from `similarity[I T]` and the image that each text is of, `owner[T]`."""
    belongs = np.arange(len(similarity))[:, None] == owner[None]
    to_text, to_image = recall(similarity, belongs, at=at), recall(similarity.T, belongs.T, at=at)
    return {f"image_to_text_{k}": v for k, v in to_text.items()} | {
        f"text_to_image_{k}": v for k, v in to_image.items()
    }
