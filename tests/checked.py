"""What every function of Foveal is checked by while tests run: the types of what it is given and gives, and shapes."""

from functools import partial, wraps
from types import FunctionType

import jaxtyping
from beartype import BeartypeConf, beartype

_shaped = jaxtyping.jaxtyped
_typed = beartype(conf=BeartypeConf(violation_type=TypeError))  # which what `jaxtyping` raises is too


def checked(made=None, *, typechecker):
    """The decorator of `jaxtyping`; of a function that names no shapes types alone are checked, at half the cost."""
    if made is None:
        return partial(checked, typechecker=typechecker)
    if not isinstance(made, FunctionType) or any(map(_looked_up, made.__annotations__.values())):
        return _shaped(made, typechecker=typechecker)
    plain = _typed(made)

    @wraps(made)
    def called(*given, **named):
        return (made if jaxtyping.config.jaxtyping_disable else plain)(*given, **named)

    return called


def _looked_up(annotation) -> bool:
    """Whether it names shapes, or something in quotes, which `jaxtyping` looks up."""
    text = repr(annotation)
    quoted = not isinstance(annotation, type) and "'" in text
    return "jaxtyping" in text or "ForwardRef" in text or quoted
