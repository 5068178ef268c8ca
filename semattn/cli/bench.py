"""`semattn bench explain`."""

from __future__ import annotations

import csv
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..utils.class_names import class_names
from ..utils.result_folder import FolderLike, ResultFolder
from ..utils.text import to_json_number, to_json_value
from . import bench_options, options
from .json_output import Content, json_output, result_content
from .model_options import EMBEDDED, ModelOptions, model_options
from .outputs import result_folder, write_json
from .parsing import read_names, read_precision
from .printing import bar, busy, collected_warnings, print_model, report_benchmark

if TYPE_CHECKING:
    from ..evaluation.runner import Results
    from ..evaluation.table import Table


STORE = ".bench"  # folder with the finished results of each image
QUICK = {"images": 10, "steps": 8}
BENCHMARK_FILES = {
    "figure": "bench.png", "table": "bench.md", "result": "bench.json", "images": "bench.csv",
}  # fmt: skip


@json_output
@model_options
def explain(
    data: bench_options.Data,
    methods: bench_options.BenchMethods = None,
    metrics: bench_options.Metrics = None,
    baselines: bench_options.Baselines = None,
    images: bench_options.Images = 100,
    chosen_model: ModelOptions = EMBEDDED,
    refine: options.Refine = "none",
    baseline: bench_options.Perturbation = "blur",
    steps: bench_options.PerturbationSteps = 16,
    quick: bench_options.Quick = False,
    batch_size: bench_options.PerturbationBatch = 32,
    precision: bench_options.Precision = "auto",
    seed: bench_options.BenchSeed = 0,
    out: bench_options.BenchFolder = None,
    force: options.Force = False,
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> Content:
    """Compare explanation methods on images with object masks.

    Every image is explained by every method. Localisation metrics compare each map
    with the object mask; faithfulness metrics remove or insert the patches that the
    map ranks first. The table lists means and 95 % bootstrap intervals over images,
    and the paired difference between each method and each baseline ([bold]*[/]: p < .05
    after Holm's correction). Results are stored image by image: after an
    interruption, the same command resumes. Images whose picture, mask or class
    changed are measured again.

    Writes [bold]bench.png[/] (the figure), [bold]bench.md[/] (the tables), [bold]bench.json[/]
    (all results and settings) and [bold]bench.csv[/] (one row per image).
    """
    from .. import evaluation
    from ..attention.model_call import model_device
    from ..data.masked import EvenSubset, open_masked
    from ..images import Preprocessing

    outputs = list(BENCHMARK_FILES.values())
    inputs = tuple(Path(part) for part in data.partition(":")[2].split(",") if part)
    folder = result_folder(out, "semattn-bench", "bench", inputs, outputs, force=force)
    names = read_names(methods) or list(evaluation.DEFAULT)
    metric_names = read_names(metrics) or evaluation.core()
    baseline_names = evaluation.check_baselines(read_names(baselines), names)
    if quick:
        images, steps = min(images, QUICK["images"]), min(steps, QUICK["steps"])
    with collected_warnings() as notes:
        with busy("reading the data") as say:
            items = EvenSubset(open_masked(data), images)
            for name in names:
                evaluation.method(name, refine)
            say("loading the model (its weights are downloaded at the first use)")
            network = chosen_model.load()
            preprocessing = Preprocessing.of(network)
            black = tuple(
                -mean / std for mean, std in zip(preprocessing.mean, preprocessing.std, strict=True)
            )
        setting = evaluation.Setting(
            baseline=baseline, black=black, steps=steps, batch_size=batch_size, seed=seed,
            precision=read_precision(precision, str(model_device(network))),
        )  # fmt: skip
        with folder.running(outputs), bar() as progress:
            results = evaluation.evaluate(
                network, items, names, metric_names, setting=setting, refine=refine,
                classes=class_names(network), folder=folder.path / STORE,
                progress=progress,
            )  # fmt: skip
        with busy("drawing"):
            table = evaluation.table(results, baseline_names, seed)
            titles = {name: evaluation.measures[name].title for name in results.metrics}
            files = write_benchmark(
                results, table, folder, markdown=evaluation.page(results, table),
                titles={name: evaluation.heading(name) for name in results.metrics},
            )  # fmt: skip
    print_model(network)
    report_benchmark(results, table, titles, files, notes)
    return result_content(files["result"], files, notes)


def write_benchmark(
    results: Results,
    table: Table,
    folder: FolderLike,
    *,
    markdown: str,
    titles: dict[str, str],
) -> dict[str, Path]:
    """Write figure, table, result and values of every image into `folder`; return the paths.

    ``bench.csv`` has one row per image and method, and one column per metric.

    Raises
    ------
    OutputError
        For a folder that is not writable or contains a foreign file of such a name; nothing is
        written then.
    """
    from ..viz import benchmark

    target_folder = ResultFolder.of(folder)
    with target_folder.staged() as stage:
        counted = zip((results.names, table.methods), ("image", "method"), strict=True)
        headline = ", ".join(
            f"{len(items)} {name}{'s' * (len(items) != 1)}" for items, name in counted
        )
        benchmark(table, titles, headline).savefig(stage / BENCHMARK_FILES["figure"])
        (stage / BENCHMARK_FILES["table"]).write_text(markdown, encoding="utf-8")
        with (stage / BENCHMARK_FILES["images"]).open("w", newline="", encoding="utf-8") as file:
            lines = csv.writer(file)
            lines.writerow(["image", "method", *results.metrics, "seconds"])
            for i, image in enumerate(results.names):
                for j, method in enumerate(results.methods):
                    if method not in results.refused:
                        numbers = [*results.values[i, j], results.seconds[i, j]]
                        lines.writerow(
                            [image, method, *(to_json_number(number) for number in numbers)]
                        )
        write_json(stage / BENCHMARK_FILES["result"], benchmark_summary(results, table))
    return {name: target_folder.path / file for name, file in BENCHMARK_FILES.items()}


def benchmark_summary(results: Results, table: Table) -> dict[str, Any]:
    """Return all results ready for JSON; None stands for an undefined number."""
    known_answers = [answer for answer in results.right if answer is not None]
    return {
        "images": len(results.names),
        "right": sum(known_answers) if known_answers else None,
        "skipped": [list(record) for record in results.skipped],
        "refused": results.refused,
        "methods": [
            {
                "method": name,
                "control": name in table.controls,
                "seconds": to_json_number(table.seconds[name]),
                "peak_mib": to_json_number(table.peak_mib[name]),
                "metrics": {
                    metric: to_json_value(asdict(table.estimates[name, metric]))
                    for metric in table.metrics
                },
                "differences": {
                    baseline: {
                        metric: to_json_value(asdict(table.differences[name, baseline, metric]))
                        for metric in table.metrics
                    }
                    for baseline in table.baselines
                    if baseline != name
                },
            }
            for name in table.methods
        ],
        "manifest": results.manifest,
    }
