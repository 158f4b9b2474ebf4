"""Relevance: looking where it matters, exactly within budget."""

from foveal.relevance.allocation import Allocation as Allocation
from foveal.relevance.allocation import allocate as allocate
from foveal.relevance.pricing import Terms as Terms
from foveal.relevance.ragged import allocate_each as allocate_each
