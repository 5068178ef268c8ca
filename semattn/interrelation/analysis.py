"""What came out of an analysis, in every form that a person wants it in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..manifest import unconfirmed
from .figures import Figures
from .findings import Finding, findings
from .store import load, save
from .summary import summary
from .tally import Tally


class Analysis(Figures):
    """Weighted patch interrelation of some images; `semattn.interrelation.analyze` makes it.

    Parameters are those of `Figures`.
    """

    def merge(self, other: Analysis) -> Analysis:
        """Both together, exact to the last bit, whatever the order."""
        if other.manifest != self.manifest or other.grid != self.grid:
            wrong = [
                name for name in self.manifest if self.manifest[name] != other.manifest.get(name)
            ]
            raise ValueError(
                f"analysis: expected one of the same model, options and versions, got another "
                f"{', '.join(wrong) or 'grid'} — analyse all parts alike"
            )
        if reason := unconfirmed(self.manifest):
            raise ValueError(
                f"analysis: expected models that can be compared, got {reason} — "
                "analyse all images at once"
            )
        tally = Tally(self.tally.layers, self.tally.replicates)
        for one in (self.tally, other.tally):
            tally.merge(one)
        return Analysis(tally, self.grid, (*self.skipped, *other.skipped), self.manifest)

    def findings(self) -> list[Finding]:
        """What the figures say, in sentences, each beside its null."""
        return findings(self)

    def summary(self) -> dict[str, Any]:
        """Everything but the sums, ready for JSON."""
        return summary(self)

    def save(self, file: str | Path) -> Path:
        """Write everything to an ``.npz`` that `load_analysis` reads; nothing in it is pickled."""
        return save(self, Path(file))


def load_analysis(file: str | Path) -> Analysis:
    """Read what `Analysis.save` wrote.

    Raises
    ------
    AnalysisFileError
        For a file that is missing, damaged, or that something else wrote.
    """
    found, _ = load(Path(file))
    return Analysis(found.tally, found.grid, found.skipped, found.manifest)
