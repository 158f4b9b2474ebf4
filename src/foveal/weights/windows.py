"""How large the windows are that the blocks of a tower see, out of the config of its checkpoint."""

from foveal.core.errors import InputError


def window_side(size: int, *, merge: int, patch: int) -> int:
    """How many patches a window of `size` pixels has on a side: whole blocks of `merge` x `merge` of them.

    Raises InputError where it holds none.
    """
    blocks = size // merge // patch
    if blocks < 1:
        raise InputError(
            f"window_size {size} holds no block of {merge} x {merge} patches of {patch} pixels; "
            f"give {merge * patch} or more"
        )
    return blocks * merge
