"""JSON and YAML of files that others wrote."""

import json
from functools import cache
from pathlib import Path
from typing import Any

from foveal.core.errors import InputError, yaml_fault


def from_json(text: str | bytes) -> Any:
    """What a text says; raises ValueError for whatever it is that does not parse, a line of why."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        raise
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except ValueError as error:  # numbers longer than Python reads, bytes that are no UTF-8
        raise ValueError(str(error).partition(";")[0]) from None


def from_yaml(text: str) -> Any:
    """What a text says; raises YAMLError for what does not parse, and for a key that stands twice in a mapping."""
    import yaml

    try:
        return yaml.load(text, Loader=_loader())
    except RecursionError:
        raise yaml.YAMLError("it is nested too deeply") from None
    except ValueError as error:  # numbers longer than Python reads, dates that are none
        raise yaml.YAMLError(str(error).partition(";")[0]) from None


@cache
def _loader() -> Any:
    import yaml

    class Once(yaml.SafeLoader):
        """A safe loader in whose mappings each key stands once: of two that differ, PyYAML takes the last."""

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            known: dict[Any, Any] = {}
            for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
                if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
                    continue
                if key.value in known:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {key.value!r} stands twice in a mapping", key.start_mark
                    )
                known[key.value] = key
            return super().construct_mapping(node, deep)

    return Once


def yaml_map(path: Path, *, holds: str) -> dict[str, Any]:
    """The mapping of a YAML file; raises InputError for another file, with what one `holds`."""
    import yaml

    try:
        given = from_yaml(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not YAML: {yaml_fault(error)}") from None
    if not isinstance(given, dict):
        raise InputError(f"{path} holds no mapping; {holds}")
    return given
