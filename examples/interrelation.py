"""Analyse the attention between patches: in parts, merged, and as a report.

    python examples/interrelation.py

The model is the embedded one; the first run downloads its weights (90 MB). Results: analysis.png,
analysis.npz and report.html.
"""

from __future__ import annotations

from pathlib import Path

from skimage import data

import semattn
from semattn.interrelation import load_analysis

PHOTO = Path(__file__).parent / "flower.jpg"


def main() -> None:
    """Analyse two parts of a set and merge them; then write a report on one image."""
    model = semattn.load()
    first = semattn.analyze(model, [PHOTO, data.astronaut(), data.chelsea()], pool_size=0)
    first.save("analysis.npz")
    second = semattn.analyze(model, [data.coffee(), data.rocket()], pool_size=0)

    analysis = load_analysis("analysis.npz").merge(second)
    print(
        f"{analysis.images} images; alignment of layer 0: {analysis.mean('alignment')[0].round(3)}"
    )
    for finding in analysis.findings()[:3]:
        print(finding.text)
    table = analysis.table()  # or pandas.DataFrame(table)
    print(len(table["metric"]), "rows of", ", ".join(list(table)[:7]))
    semattn.viz.analysis(analysis).savefig("analysis.png")
    print("picture: analysis.png")

    explanation = semattn.SIFTPatchInterrelation().explain(model, PHOTO)
    report = semattn.report.build(explanation, model=model, analysis=analysis, prompting=False)
    print(f"picture: {report.save('report.html').name}")  # a notebook displays `report`


if __name__ == "__main__":
    main()
