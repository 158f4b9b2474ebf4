"""Methods of another library's objects that go on as they were, and tell what they did."""

import inspect
from collections.abc import Callable
from typing import Any


class Told:
    """A method of one object, which stands on the object in place of its class's and calls `tell(told, given, made)`
    after each call, with all arguments by name; `remove` takes it off again.
    """

    def __init__(self, owner: Any, name: str, tell: Callable[["Told", dict[str, Any], Any], None]) -> None:
        self.owner, self.name, self.tell = owner, name, tell
        self.before = owner.__dict__.get(name)
        self.__wrapped__ = getattr(owner, name)  # `inspect.signature` looks here, by which generate() picks arguments
        setattr(owner, name, self)

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        made = self.__wrapped__(*arguments, **named)
        self.tell(self, by_name(self.__wrapped__, arguments, named), made)
        return made

    def remove(self) -> None:
        """Put back what was there."""
        if self.before is None:
            delattr(self.owner, self.name)
        else:
            setattr(self.owner, self.name, self.before)


def by_name(method: Callable[..., Any], arguments: tuple[Any, ...], named: dict[str, Any]) -> dict[str, Any]:
    """All arguments of a call by their names."""
    if not arguments:
        return dict(named)
    return {**dict(zip(inspect.signature(method).parameters, arguments, strict=False)), **named}
