"""What a comparison knows of one training: a file that grows cell by cell, whole at every moment.

A cell is one training asked by one strategy with one number of visual tokens. A file of another `key` is begun anew.
"""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SCHEMA = 1
DONE = "done"


@dataclass
class Record:
    """One training with its cells, as `file` holds it; `put` writes it again at once."""

    file: Path
    told: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def open(cls, file: Path, *, key: str) -> "Record":
        """What the file holds of a training of this key; an empty record otherwise."""
        known = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        same = known.get("key") == key and known.get("schema") == SCHEMA
        return cls(file, known if same else {})

    @property
    def begun(self) -> bool:
        """Whether this training was begun before."""
        return bool(self.told)

    @property
    def trained(self) -> bool:
        """Whether it has come to its end."""
        return self.told.get("training", {}).get("state") == DONE

    @property
    def cells(self) -> list[dict[str, Any]]:
        """Its cells so far, those that failed too."""
        return self.told.get("cells", [])

    def cell(self, **names: Any) -> dict[str, Any] | None:
        """The finished cell of these names."""
        plain = json.loads(json.dumps(names))
        for cell in self.cells:
            if cell["state"] == DONE and all(cell.get(name) == value for name, value in plain.items()):
                return cell
        return None

    def put(self, **parts: Any) -> None:
        """Keep these parts, and write the file whole."""
        self.told = {"schema": SCHEMA, **self.told, **parts}
        self.file.parent.mkdir(parents=True, exist_ok=True)
        fresh = self.file.with_suffix(".tmp")
        fresh.write_text(json.dumps(self.told, ensure_ascii=False), encoding="utf-8")
        os.replace(fresh, self.file)

    def add(self, cell: dict[str, Any], **names: Any) -> None:
        """Keep a cell in the place of an earlier one of the same names."""
        plain = json.loads(json.dumps(names))
        others = [one for one in self.cells if any(one.get(name) != value for name, value in plain.items())]
        self.put(cells=[*others, {**plain, **cell}])
