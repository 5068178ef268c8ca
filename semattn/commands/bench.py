"""`semattn bench explain`."""

from __future__ import annotations

from pathlib import Path

from ..class_names import class_names
from . import options
from .console import bar, busy, report_benchmark, told
from .folders import result_folder
from .json_output import Content, json_output, result_content
from .reading import load_model, read_device, read_names, read_precision

KEPT = ".bench"  # folder: the numbers of each image
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
    classes: options.ClassNames = None,
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
    """Compare explanation methods on images whose objects are known.

    Every image is explained by every method, and every map is measured: where it
    points, and what the model says when the patches it names go or come. The
    table has means and 95 % bootstrap intervals over images, and the paired
    difference of each method to each baseline ([bold]*[/]: p < .05 after Holm's
    correction). Every image is kept as it is done: after an interruption,
    the same command goes on; images whose picture, mask or class changed are
    measured again.

    Writes [bold]bench.png[/] (the figure), [bold]bench.md[/] (the tables), [bold]bench.json[/]
    (all of it, and what is needed to do it again) and [bold]bench.csv[/] (every image).
    """
    from .. import evaluation, output
    from ..evaluation.masked import First, read
    from ..images import Preprocessing

    outputs = list(output.BENCHMARK_FILES.values())
    inputs = tuple(Path(part) for part in data.partition(":")[2].split(",") if part)
    folder = result_folder(out, "semattn-bench", "bench", inputs, outputs, force=force)
    names = read_names(methods) or list(evaluation.DEFAULT)
    wanted = read_names(metrics) or evaluation.core()
    compared = evaluation.check_baselines(read_names(baselines), names)
    if quick:
        images, steps = min(images, QUICK["images"]), min(steps, QUICK["steps"])
    with told() as notes:
        with busy("reading the data") as say:
            items = First(read(data), images)
            for name in names:
                evaluation.method(name, refine)
            say("loading the model, which fetches its weights the first time")
            network = load_model(
                model, checkpoint, names=classes, pretrained=not random_weights,
                device=read_device(device),
            )  # fmt: skip
            own = Preprocessing.of(network)
            black = tuple(-mean / std for mean, std in zip(own.mean, own.std, strict=True))
        setting = evaluation.Setting(
            baseline=baseline, black=black, steps=steps, batch_size=batch_size, seed=seed,
            precision=read_precision(precision, device),
        )  # fmt: skip
        with folder.running(outputs), bar() as progress:
            found = evaluation.evaluate(
                network, items, names, wanted, setting=setting, refine=refine,
                classes=class_names(network), folder=folder.path / KEPT,
                progress=progress,
            )  # fmt: skip
        with busy("drawing"):
            made = evaluation.table(found, compared, seed)
            titles = {name: evaluation.measures[name].title for name in found.metrics}
            files = output.write_benchmark(
                found, made, folder, markdown=evaluation.page(found, made),
                titles={name: evaluation.heading(name) for name in found.metrics},
            )  # fmt: skip
    report_benchmark(found, made, titles, files, notes)
    return result_content(files["result"], files, notes)
