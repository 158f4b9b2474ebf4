"""What the settings of an objective may be, told before anything learns by it."""

import math

from foveal.core.errors import InputError


def check_weights(objective: str, /, **weights: float) -> None:
    """Raises InputError for a weight that is below 0 or no number."""
    for name, weight in weights.items():
        if not 0 <= weight < math.inf:
            raise InputError(f"{objective}.{name} is {weight:g}; give a weight of 0 or more")


def check_whole(objective: str, least: int, /, **numbers: int) -> None:
    """Raises InputError for a whole number below the least."""
    for name, number in numbers.items():
        if number < least:
            raise InputError(f"{objective}.{name} is {number}; give {least} or more")
