"""Between sight and language: what turns features of an encoder into visual tokens, one file each."""

import re
from typing import Any

_STACK = re.compile(r"mlp([0-9]+)x_gelu")


def also(name: str) -> tuple[str, dict[str, Any]] | None:
    """The connector that LLaVA-1.5 calls so (2310.03744), with its settings; None: no other name is known."""
    stack = _STACK.fullmatch(name)
    return None if stack is None else ("mlp", {"depth": int(stack[1])})
