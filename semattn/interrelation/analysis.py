"""`Analysis`: the result of `analyze`, with merging, findings, summary and saving."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..utils.notebook import NotebookView
from ..utils.provenance import model_label, unconfirmed
from ..utils.text import to_json_value
from .accumulate import Tally
from .analysis_files import read_analysis_file, save_analysis
from .estimates import METRIC_INFO, AnalysisResult, Array
from .findings import Finding, find_findings


def summarize(analysis: AnalysisResult) -> dict[str, Any]:
    """Return the settings, every metric with interval and nulls, and the findings.

    A metric is a list of layers, each a list of the layer's heads. A lift ends in 3 lists of 3:
    strata of the queries, then of the keys, in the order EMPTY, LOW, HIGH. Undefined values are
    None.
    """
    lifts = ("lift", "lift_without_outliers")
    metrics = {name: _summarize_metric(analysis, name) for name in analysis.metrics}
    return {
        "images": analysis.images,
        "skipped": [{"name": name, "reason": reason} for name, reason in analysis.skipped],
        "model": model_label(analysis.manifest),
        "density": analysis.manifest["options"]["density"],
        "grid": list(analysis.grid.shape),
        "layers": [{"layer": layer, "heads": heads} for layer, heads in analysis.layers],
        "metrics": {name: metric for name, metric in metrics.items() if name not in lifts},
        **{name: metric for name, metric in metrics.items() if name in lifts},
        "findings": [asdict(finding) for finding in find_findings(analysis)],
        "manifest": analysis.manifest,
    }


def _summarize_metric(analysis: AnalysisResult, name: str) -> dict[str, Any]:
    low, high = analysis.interval(name)
    nulls = {}
    for null in analysis.nulls(name):
        test = analysis.against(name, null)
        nulls[null] = {column: _to_lists(analysis, values) for column, values in test.items()}
    return {
        **METRIC_INFO[name]._asdict(),
        "mean": _to_lists(analysis, analysis.mean(name)),
        "low": _to_lists(analysis, low),
        "high": _to_lists(analysis, high),
        "nulls": nulls,
    }


def _to_lists(analysis: AnalysisResult, values: Array) -> list[Any]:
    """Convert (L, H, …) to lists, without the padding of layers that have fewer heads."""
    layers = zip(values, analysis.layers, strict=True)
    return [to_json_value(layer_values[:heads]) for layer_values, (_, heads) in layers]


class Analysis(AnalysisResult, NotebookView):
    """Weighted patch interrelation of a set of images, the result of `semattn.analyze`.

    The parameters are those of `AnalysisResult`.
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
        tally = Tally(self.tally.layers, self.tally.n_bootstrap)
        for part in (self.tally, other.tally):
            tally.merge(part)
        return Analysis(tally, self.grid, (*self.skipped, *other.skipped), self.manifest)

    def findings(self) -> list[Finding]:
        """Return the findings as sentences, each with its nulls."""
        return find_findings(self)

    def summary(self) -> dict[str, Any]:
        """Return everything except the sums, ready for JSON."""
        return summarize(self)

    def save(self, file: str | Path) -> Path:
        """Write the analysis to an ``.npz`` file, without pickle; `load_analysis` reads it."""
        return save_analysis(self, Path(file))


def load_analysis(file: str | Path) -> Analysis:
    """Read a file of `Analysis.save`.

    Raises
    ------
    AnalysisFileError
        If the file is missing, damaged, or not an analysis.
    """
    analysis, _ = read_analysis_file(Path(file))
    return Analysis(analysis.tally, analysis.grid, analysis.skipped, analysis.manifest)
