"""Stored rows of an evaluation; a row is used only for the inputs that it was computed from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from ..data.masked import sources_of
from ..errors import SemattnError
from ..utils.input_identity import content_digests, identify_inputs, stored_identities
from ..utils.run_store import RunStore


def around(index: int, count: int, most: int) -> list[int]:
    """Return the numbers of the items after `index`, cyclically, at most `most`."""
    return [(index + step) % count for step in range(1, min(most, count - 1) + 1)]


class RowStore:
    """Stored rows by the identity of their inputs: image, mask, class, and masks of other images.

    Parameters
    ----------
    store : store of the rows "000000", …
    data : the data set
    classes : model class of each class of the data; None if the predicted class is explained
    others : number of other images whose masks a row depends on, 0 for none
    """

    def __init__(
        self, store: RunStore, data: Any, classes: Sequence[int] | None, others: int
    ) -> None:
        self.store, self.data, self.others = store, data, others
        self.classes = None if classes is None else list(classes)
        files = sorted(store.folder.glob("[0-9]*.json"))
        self.places = {file.stem: store.read_row(file.stem) or {} for file in files}
        stored = self.places.values()
        self.rows = {str(row["key"]): row for row in stored if "key" in row}
        self.before = {str(row.get("name")): row.get("own") for row in stored}
        self._known = stored_identities(line for row in stored for line in row.get("inputs", ()))
        self._lines: dict[int, list[str]] = {}
        self._owns: dict[int, str] = {}
        self.names: set[str] = set()
        self.changed = self.affected = 0

    def find(self, index: int) -> dict[str, Any] | None:
        """Return the stored row of an item, None if it must be measured."""
        row = self.rows.get(self._key(index))
        if row is None or "skipped" in row:
            return None  # an image that could not be read is read again
        self.names.add(str(row["name"]))
        self._write(index, {**row, "inputs": self._identities(index)})
        return row

    def keep(self, index: int, row: dict[str, Any]) -> dict[str, Any]:
        """Store a measured row."""
        name, own_digest = str(row["name"]), self._own(index)
        full = {
            **row,
            "key": self._key(index),
            "own": own_digest,
            "inputs": self._identities(index),
        }
        self.names.add(name)
        if name in self.before and full["key"] not in self.rows:
            self.changed += self.before[name] != own_digest
            self.affected += self.before[name] == own_digest
        self._write(index, full)
        return full

    def finish(self) -> tuple[str, str]:
        """Remove the rows of removed images; return the digest of all inputs, and a note or ""."""
        for name in self.places:
            if not name.isdigit() or int(name) >= len(self.data):
                (self.store.folder / f"{name}.json").unlink(missing_ok=True)
        removed = len(self.before.keys() - self.names)
        kinds = (
            (self.changed, "whose image, mask or class changed"),
            (self.affected, "compared with masks of other images, which changed"),
        )
        changes = ", ".join(f"{count} {words}" for count, words in kinds if count)
        texts = []
        if changes:
            count_text = f"{self.changed + self.affected} of {len(self.before)} images"
            texts.append(f"{count_text} that an earlier run kept were measured again: {changes}")
        if removed:
            texts.append(f"{removed} that are no longer in the data were dropped")
        return _digest([self._own(index) for index in range(len(self.data))]), "; ".join(texts)

    def _write(self, index: int, row: dict[str, Any]) -> None:
        name = f"{index:06d}"
        if self.places.get(name) != row:
            self.store.store_row(name, row)

    def _key(self, index: int) -> str:
        lines = self._identities(index)
        count = len(self.data)
        others = around(index, count, self.others) if len(lines) > 1 else []
        return _digest(
            [self._own(index), [content_digests(self._identities(other)) for other in others]]
        )

    def _own(self, index: int) -> str:
        self._identities(index)
        return self._owns[index]

    def _identities(self, index: int) -> list[str]:
        if index not in self._lines:
            try:
                inputs = sources_of(self.data, index)
            except (SemattnError, OSError, ValueError) as error:
                inputs = [(f"image {index}", str(error).encode("utf-8", "replace"), None)]
            names = [name for name, _, _ in inputs]
            label = inputs[0][2]
            lines = identify_inputs([source for _, source, _ in inputs], names, self._known, 1)
            # Without a label of its own, an item's class follows from its inputs.
            has_class = self.classes is not None and label is not None
            explained = self.classes[label] if has_class else self.classes  # type: ignore[index]
            self._lines[index] = lines
            self._owns[index] = _digest([names, content_digests(lines), explained])
        return self._lines[index]


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()
