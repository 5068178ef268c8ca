"""Data sets of the Hugging Face library: saved on disk, or by name.

The Arrow files are read with pyarrow; `datasets` is needed only to find or download a data set by
its name.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any, overload

from ..errors import MissingPackageError, SemattnError

PREFIX = "hf-dataset:"
STATE, INFORMATION, SPLITS = "state.json", "dataset_info.json", "dataset_dict.json"
LABEL_COLUMNS = (
    "label", "labels", "class", "target", "fine_label", "category", "class_name", "cls",
)  # fmt: skip


@dataclass(frozen=True)
class DatasetRow:
    """Picture in a row of a data set, as accepted by `semattn.images.read`.

    Parameters
    ----------
    archive : the Arrow file
    name : name of the row: the data set and the number
    value : what the column of pictures holds: bytes, a path, or both
    """

    archive: Path
    name: str
    value: Any

    def __str__(self) -> str:
        return self.name

    def read_bytes(self) -> bytes:
        """Return the encoded bytes of the picture."""
        value = self.value.as_py()
        if isinstance(value, str):
            return Path(value).read_bytes()
        if isinstance(value, dict):
            content, path = value.get("bytes"), value.get("path")
            if content is None and path:
                return Path(path).read_bytes()
            value = content
        if not isinstance(value, bytes):
            raise OSError("the row holds no picture")
        return value


class DatasetRows(Sequence[DatasetRow]):
    """Pictures of a data set, read from memory-mapped Arrow files when they are needed.

    Parameters
    ----------
    name : name of the data set in the names of rows
    files : the Arrow files, in order
    column : name of the column of pictures
    """

    def __init__(self, name: str, files: Sequence[Path], column: str) -> None:
        self.name, self.files, self.column = name, tuple(files), column
        self.ends = list(accumulate(len(values) for values in self._columns))

    @cached_property
    def _columns(self) -> list[Any]:
        return [_read_table(file).column(self.column) for file in self.files]

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the memory maps, which another process opens again."""
        return {name: value for name, value in self.__dict__.items() if name != "_columns"}

    def __len__(self) -> int:
        return self.ends[-1] if self.ends else 0

    @overload
    def __getitem__(self, index: int) -> DatasetRow: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[DatasetRow, ...]: ...
    def __getitem__(self, index: int | slice) -> DatasetRow | tuple[DatasetRow, ...]:
        if isinstance(index, slice):
            return tuple(self[number] for number in range(len(self))[index])
        number = range(len(self))[index]
        part = bisect_right(self.ends, number)
        first = self.ends[part - 1] if part else 0
        value = self._columns[part][number - first]
        return DatasetRow(self.files[part], f"{self.name}/{number:07}", value)


@dataclass(frozen=True)
class LabelColumn:
    """Labels of a data set.

    Parameters
    ----------
    words : label of each row, as a class name or number; "" for none
    classes : class names in the order of their numbers; () if the data set declares none
    column : name of the column; "" for none
    """

    words: tuple[str, ...]
    classes: tuple[str, ...] = ()
    column: str = ""


def is_saved_dataset(folder: Path) -> bool:
    """Return whether `datasets` saved a data set, or several splits of one, in a folder."""
    saved = (folder / STATE).is_file() and (folder / INFORMATION).is_file()
    return saved or (folder / SPLITS).is_file()


def open_saved_dataset(folder: Path, column: str = "") -> tuple[DatasetRows, LabelColumn]:
    """Open a data set that `Dataset.save_to_disk` wrote; its files are not loaded into memory.

    Parameters
    ----------
    column : name of the column of pictures; "" if there is only one

    Raises
    ------
    SemattnError
        For a folder with several splits, a damaged data set, and one without a single column of
        pictures.
    """
    try:
        if (folder / SPLITS).is_file():
            splits = json.loads((folder / SPLITS).read_text(encoding="utf-8"))["splits"]
            if len(splits) != 1:
                raise SemattnError(
                    f"source: expected one split, got {folder} with {', '.join(splits)} — give "
                    f"one of them, such as {folder / splits[0]}"
                )
            folder = folder / splits[0]
        state = json.loads((folder / STATE).read_text(encoding="utf-8"))
        features = json.loads((folder / INFORMATION).read_text(encoding="utf-8"))["features"]
        files = [folder / entry["filename"] for entry in state["_data_files"]]
        if state.get("_indices_data_files"):
            raise SemattnError(
                f"source: expected a data set without an index of rows, got {folder} — call "
                "flatten_indices() before save_to_disk()"
            )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SemattnError(
            f"source: expected a folder written by Dataset.save_to_disk, got {folder} ({error}) — "
            "save the data set again"
        ) from error
    return _open_files(folder.name, files, features, column)


def open_named_dataset(text: str, column: str = "") -> tuple[DatasetRows, LabelColumn]:
    """Open a data set by its name: ``NAME``, ``NAME:SPLIT`` or ``NAME:CONFIGURATION:SPLIT``.

    `datasets` downloads it at the first use.

    Raises
    ------
    MissingPackageError
        If `datasets` is not installed.
    SemattnError
        For a data set that cannot be loaded, several splits, and a part of a split.
    """
    try:
        import datasets
    except ImportError as error:
        raise MissingPackageError(
            f"source: expected the package datasets, which loads {PREFIX}{text}, got none — "
            "pip install 'semattn[hf]'"
        ) from error
    name, *rest = text.split(":")
    configuration = rest[0] if len(rest) == 2 else None
    split = rest[-1] if rest else None
    try:
        dataset = datasets.load_dataset(name, configuration, split=split)
    except Exception as error:  # of the library, the hub or the network
        reason = " ".join(str(error).split()) or type(error).__name__
        raise SemattnError(
            f"source: expected a data set that can be loaded, got {PREFIX}{text} ({reason[:200]}) "
            "— check name, configuration and split"
        ) from error
    if isinstance(dataset, Mapping):
        splits = list(dataset)
        if len(splits) != 1:
            raise SemattnError(
                f"source: expected one split, got {PREFIX}{text} with {', '.join(splits)} — give "
                f"one of them, such as {PREFIX}{name}:{splits[0]}"
            )
        dataset = dataset[splits[0]]
    files = [Path(entry["filename"]) for entry in dataset.cache_files]
    rows, labels = _open_files(name.rpartition("/")[2], files, dataset.features.to_dict(), column)
    if len(rows) != len(dataset):
        raise SemattnError(
            f"source: expected a whole split, got {PREFIX}{text} with {len(dataset)} of "
            f"{len(rows)} rows — save the part with save_to_disk(), and give that folder"
        )
    return rows, labels


def _open_files(
    name: str, files: Sequence[Path], features: Mapping[str, Any], column: str
) -> tuple[DatasetRows, LabelColumn]:
    pictures = [key for key, feature in features.items() if _type(feature) == "Image"]
    if (column and column not in pictures) or (not column and len(pictures) != 1):
        column_names = ", ".join(pictures) or "none"
        choice = f", such as #{pictures[0]}" if pictures else ""
        raise SemattnError(
            f"source: expected one column of pictures{f' called {column}' if column else ''}, got "
            f"{column_names} in {name} — choose one with #COLUMN{choice}"
        )
    try:
        rows = DatasetRows(name, files, column or pictures[0])
        labels = _labels(files, features)
    except ImportError as error:
        raise MissingPackageError(
            "source: expected pyarrow, which reads data sets, got none — "
            "pip install 'semattn[audit]'"
        ) from error
    except (OSError, ValueError, KeyError) as error:  # those of pyarrow are ValueErrors
        raise SemattnError(
            f"source: expected Arrow files, got {name}, which cannot be read ({error}) — save the "
            "data set again"
        ) from error
    if not len(rows):
        raise SemattnError(f"source: expected pictures, got none in the data set {name}")
    return rows, labels


def _labels(files: Sequence[Path], features: Mapping[str, Any]) -> LabelColumn:
    """Return the labels: the only column of classes, or else a column with a usual name."""
    declared = [key for key, feature in features.items() if _type(feature) == "ClassLabel"]
    usual = [
        key for key in LABEL_COLUMNS
        if _type(features.get(key)) == "Value" and features[key].get("dtype") != "float"
    ]  # fmt: skip
    column = declared[0] if len(declared) == 1 else next(iter(usual), "")
    column = next((key for key in LABEL_COLUMNS if key in declared), column)
    if not column:
        return LabelColumn(("",) * sum(_read_table(file).num_rows for file in files))
    classes = tuple(map(str, features[column].get("names") or ()))
    texts: dict[Any, str] = {None: ""}
    if classes:
        texts |= {-1: "", **dict(enumerate(classes))}
    words: list[str] = []
    for file in files:
        values = _read_table(file).column(column).to_pylist()
        words += [
            texts.setdefault(value, str(value)) for value in values
        ]  # one text for each class
    return LabelColumn(tuple(words), classes, column)


def _read_table(file: Path) -> Any:
    """Map an Arrow file into memory."""
    import pyarrow as pa

    with pa.ipc.open_stream(pa.memory_map(str(file))) as reader:
        return reader.read_all()


def _type(feature: Any) -> str:
    return str(feature.get("_type", "")) if isinstance(feature, Mapping) else ""
