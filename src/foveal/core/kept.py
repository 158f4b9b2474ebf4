"""What is made of a few numbers once, and kept for whoever asks next."""

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import Any, TypeVar, cast

import torch
from torch.utils._python_dispatch import _get_current_dispatch_mode

F = TypeVar("F", bound=Callable[..., Any])


def kept(most: int) -> Callable[[F], F]:
    """Keeps what a function makes of its latest `most` arguments, as tensors that know nothing of who asked first.

    They are made outside inference mode, for they are also read where something learns, and on the CPU unless the
    function names a device; it must name the dtype of what is floating. Nobody may change them in place.
    """

    def keeping(make: F) -> F:
        @lru_cache(maxsize=most)
        def known(*args: Any, **kwargs: Any) -> Any:
            with torch.inference_mode(False), torch.device("cpu"):
                return make(*args, **kwargs)

        @wraps(make)
        def found(*args: Any, **kwargs: Any) -> Any:
            if torch.compiler.is_compiling() or _get_current_dispatch_mode() is not None:
                return make(*args, **kwargs)  # a tracer's tensors, and those of a mode such as fake ones, are not kept
            return known(*args, **kwargs)

        return cast(F, found)

    return keeping
