"""Note on stored results that were computed again because their images changed."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from .identity import content_of


class RecomputedParts:
    """Counter of the parts of a run that were computed again, with the reasons.

    Parameters
    ----------
    part : singular and plural of the word for a part: ("unit", "units")
    stored : number of parts that an earlier run stored
    """

    def __init__(self, part: tuple[str, str], stored: int) -> None:
        self.part, self.stored, self.parts = part, stored, 0
        self._before: dict[str, int] = {}
        self._after: dict[str, int] = {}

    def drop(self, identities: Iterable[str]) -> None:
        """Count a stored part that is not used, with the identities of its images."""
        self.parts += 1
        self._before.update(_entries(identities))

    def again(self, identities: Iterable[str]) -> None:
        """Add the identities of images that are computed now."""
        if self.parts:
            self._after.update(_entries(identities))

    def note(self, names: Collection[str], counts_new: bool, alone: bool = True) -> str:
        """Return the note; "" if all stored parts are used.

        Parameters
        ----------
        names : names of all images of the current run
        counts_new : whether the earlier run covered all images, so that other images are new
        alone : whether one process computes all parts; otherwise images move between processes
        """
        if not self.parts:
            return ""
        word = self.part[0] if self.stored == 1 else self.part[1]
        start = f"{self.parts} of {self.stored} kept {word} " + (
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


def _entries(lines: Iterable[str]) -> dict[str, int]:
    """Return a hash of label and content of each image, by name."""
    entries = {}
    for identity in lines:
        try:
            name, content = content_of(identity)
        except (ValueError, TypeError):
            continue
        entries[name] = hash(content)
    return entries
