"""One line on kept work that was not used, because its images changed."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from .identity import content_of


class Redone:
    """Counts of parts of a run that were done again, and why.

    Parameters
    ----------
    part : the word for a part, and for several: ("unit", "units")
    kept : number of parts that an earlier run kept
    """

    def __init__(self, part: tuple[str, str], kept: int) -> None:
        self.part, self.kept, self.parts = part, kept, 0
        self._before: dict[str, int] = {}
        self._after: dict[str, int] = {}

    def drop(self, identities: Iterable[str]) -> None:
        """Count a part that is not used, with the lines of its images."""
        self.parts += 1
        self._before.update(_entries(identities))

    def again(self, identities: Iterable[str]) -> None:
        """Take in the lines of images that are done now."""
        if self.parts:
            self._after.update(_entries(identities))

    def note(self, names: Collection[str], counts_new: bool, alone: bool = True) -> str:
        """Return the line; "" where all that was kept is used.

        Parameters
        ----------
        names : of all images now
        counts_new : whether the earlier run had reached all images, so that others are new
        alone : whether one process does all parts; else images move between processes
        """
        if not self.parts:
            return ""
        word = self.part[0] if self.kept == 1 else self.part[1]
        start = f"{self.parts} of {self.kept} kept {word} " + (
            "was not used" if self.parts == 1 else "were not used"
        )
        if not alone:
            return f"{start}, because the images in the data set changed"
        present = set(names)
        changed = sum(
            self._after[name] != old for name, old in self._before.items() if name in self._after
        )
        added = sum(name not in self._before for name in self._after) if counts_new else 0
        gone = sum(name not in present for name in self._before)
        kinds = (
            (changed, "image changed", "images changed"),
            (added, "is new", "are new"), (gone, "is gone", "are gone"),
        )  # fmt: skip
        reasons = [f"{count} {words[count > 1]}" for count, *words in kinds if count]
        listed = ", ".join(reasons[:-1]) + " and " * (len(reasons) > 1) + "".join(reasons[-1:])
        return f"{start}, because {listed or 'the order of the images changed'}"


def _entries(identities: Iterable[str]) -> dict[str, int]:
    """Return a number for label and content of each image, by name."""
    entries = {}
    for identity in identities:
        try:
            name, content = content_of(identity)
        except (ValueError, TypeError):
            continue
        entries[name] = hash(content)
    return entries
