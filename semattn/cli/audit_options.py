"""Options of `semattn audit`, and of its engines."""

from __future__ import annotations

from typing import Annotated

import typer

from .options import INPUT, METHOD, OUTPUT, option

ENGINE = "Engine"
AuditSource = Annotated[
    str,
    typer.Argument(
        metavar="FOLDER|ARCHIVES|LIST|DATASET",
        help="A folder of images, or with one subfolder per class; a folder of tar archives, one "
        "archive, or shard-{000..063}.tar (WebDataset), with #EXTENSION if a sample has several "
        "images; or a text file with one path per line, and the class after a tab, comma or space. "
        "These may be local or remote: s3://, gs://, hf://datasets/ and other addresses of fsspec. "
        "Or a Hugging Face data set: a folder saved by save_to_disk, hf-dataset:NAME or "
        "hf-dataset:NAME:SPLIT.",
    ),
]
Jobs = Annotated[
    str,
    option(INPUT, "A,B,C", "Jobs to run: [bold]explain[/], [bold]analyze[/], [bold]spurious[/]."),
]
AuditBatch = Annotated[
    int | None,
    option(
        METHOD, "B", "Batch size of the model. Default: chosen from the free memory.",
        "--batch-size", min=1,
    ),
]  # fmt: skip
ReadingWorkers = Annotated[
    int | None,
    option(
        METHOD, "N", "Processes that read images and detect keypoints. Default: the number of free "
        "CPU cores.", "--workers", min=0,
    ),
]  # fmt: skip
Process = Annotated[
    str | None,
    option(
        METHOD, "K/N", "This process and the number of processes, from 0/N. Default: from torchrun."
    ),
]  # fmt: skip
EngineName = Annotated[
    str,
    option(
        ENGINE, "NAME", "Where the work runs: [bold]local[/], on this machine; or [bold]ray[/], on "
        "a Ray cluster (pip install 'semattn\\[ray]').", "--engine",
    ),
]  # fmt: skip
Address = Annotated[
    str | None,
    option(
        ENGINE, "HOST:PORT", "Ray cluster, [bold]auto[/] for that of this machine. Default: "
        "RAY_ADDRESS, else the cluster of this machine, else Ray is started here.", "--address",
    ),
]  # fmt: skip
Actors = Annotated[
    str | None,
    option(
        ENGINE, "N|MIN-MAX", "Copies of the model on the Ray cluster. Default: 1 up to what the "
        "cluster can hold.",
    ),
]  # fmt: skip
GpusPerActor = Annotated[
    float | None,
    option(
        ENGINE, "N", "GPUs of each copy of the model, such as 1 or 0.5. Default: 1 if the cluster "
        "has GPUs.", "--gpus-per-actor", min=0.0,
    ),
]  # fmt: skip
AuditFolder = Annotated[
    str | None,
    option(
        OUTPUT, "DIR", "Folder for the results, or the address of one, such as s3://bucket/run: "
        "there, only processes of this machine are locked out. Default: semattn-audit-NAME.",
    ),
]  # fmt: skip
