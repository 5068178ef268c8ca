"""`semattn bench explain`."""

from __future__ import annotations

from pathlib import Path

from ..utils.class_names import class_names
from . import options
from .folders import result_folder
from .json_output import Content, json_output, result_content
from .parsing import load_model, read_device, read_names, read_precision
from .printing import bar, busy, collected_warnings, report_benchmark

STORE = ".bench"  # folder with the finished results of each image
QUICK = {"images": 10, "steps": 8}


@json_output
def explain(
    data: options.Data,
    methods: options.BenchMethods = None,
    metrics: options.Metrics = None,
    baselines: options.Baselines = None,
    images: options.Images = 100,
    model: options.ModelName = None,
    checkpoint: options.Checkpoint = None,
    random_weights: options.RandomWeights = False,
    class_names_file: options.ClassNames = None,
    refine: options.Refine = "none",
    baseline: options.Perturbation = "blur",
    steps: options.PerturbationSteps = 16,
    quick: options.Quick = False,
    batch_size: options.PerturbationBatch = 32,
    precision: options.Precision = "auto",
    seed: options.BenchSeed = 0,
    device: options.Device = "cpu",
    out: options.BenchFolder = None,
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
    from ..data.masked import EvenSubset, open_masked
    from ..images import Preprocessing
    from . import writers

    outputs = list(writers.BENCHMARK_FILES.values())
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
            network = load_model(
                model, checkpoint, names=class_names_file, pretrained=not random_weights,
                device=read_device(device),
            )  # fmt: skip
            preprocessing = Preprocessing.of(network)
            black = tuple(
                -mean / std for mean, std in zip(preprocessing.mean, preprocessing.std, strict=True)
            )
        setting = evaluation.Setting(
            baseline=baseline, black=black, steps=steps, batch_size=batch_size, seed=seed,
            precision=read_precision(precision, device),
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
            files = writers.write_benchmark(
                results, table, folder, markdown=evaluation.page(results, table),
                titles={name: evaluation.heading(name) for name in results.metrics},
            )  # fmt: skip
    report_benchmark(results, table, titles, files, notes)
    return result_content(files["result"], files, notes)
