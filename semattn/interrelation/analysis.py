"""`Analysis`: the result of `analyze`, with merging, findings, summary and saving."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..utils.provenance import unconfirmed
from .accumulate import Tally
from .analysis_files import load, save
from .estimates import Figures
from .findings import Finding, findings
from .summary import summary


class Analysis(Figures):
    """Weighted patch interrelation of a set of images, the result of `semattn.analyze`.

    The parameters are those of `Figures`.
    """

    def merge(self, other: Analysis) -> Analysis:
        """Merge two analyses; the result is bit-equal in either order."""
        if other.manifest != self.manifest or other.grid != self.grid:
            different = [
                name for name in self.manifest if self.manifest[name] != other.manifest.get(name)
            ]
            raise ValueError(
                "analysis: expected the same model, options and versions, got another "
                f"{', '.join(different) or 'grid'} — analyse all parts with the same settings"
            )
        if reason := unconfirmed(self.manifest):
            raise ValueError(
                f"analysis: expected models that can be compared, got {reason} — "
                "analyse all images at once"
            )
        tally = Tally(self.tally.layers, self.tally.replicates)
        for part in (self.tally, other.tally):
            tally.merge(part)
        return Analysis(tally, self.grid, (*self.skipped, *other.skipped), self.manifest)

    def findings(self) -> list[Finding]:
        """Return the findings as sentences, each with its nulls."""
        return findings(self)

    def summary(self) -> dict[str, Any]:
        """Return everything except the sums, ready for JSON."""
        return summary(self)

    def save(self, file: str | Path) -> Path:
        """Write the analysis to an ``.npz`` file, without pickle; `load_analysis` reads it."""
        return save(self, Path(file))


def load_analysis(file: str | Path) -> Analysis:
    """Read a file of `Analysis.save`.

    Raises
    ------
    AnalysisFileError
        If the file is missing, damaged, or not an analysis.
    """
    analysis, _ = load(Path(file))
    return Analysis(analysis.tally, analysis.grid, analysis.skipped, analysis.manifest)
