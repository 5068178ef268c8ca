"""Options of every command that uses a model, and the model that they select.

`model_options` adds the options to a command; so a new option is added here, once.
"""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_type_hints

from ..utils.registry import unknown_name_message
from ..utils.text import read_lines
from . import options
from .parsing import RANDOM_SEED, read_classes

if TYPE_CHECKING:
    from torch import nn

DTYPES = ("float32", "bfloat16", "float16")
Command = TypeVar("Command", bound=Callable[..., Any])


@dataclass(frozen=True)
class ModelOptions:
    """Values of the model options of a command."""

    model: options.ModelName = None
    checkpoint: options.Checkpoint = None
    labels: options.Labels = None
    class_names_file: options.ClassNames = None
    random_weights: options.RandomWeights = False
    precision: options.ModelPrecision = "auto"
    device: options.Device = "auto"

    def load(self, process: str | None = None) -> nn.Module:
        """Load the model, with its class names, on its device.

        Random weights are the same in every run; a warning and the manifest report them.

        Parameters
        ----------
        process : number of this process among those of the machine, which then selects its GPU
        """
        import torch

        from .. import zoo
        from ..attention.output_meaning import declared_classes
        from ..utils.devices import AUTO, best_device, resolve_device
        from ..utils.provenance import WEIGHTS_SOURCE

        dtype = self._dtype()
        name = best_device() if self.device == AUTO else self.device
        device = resolve_device(f"cuda:{process}" if process and name == "cuda" else name)
        has_own_weights = not self.random_weights or self.checkpoint is not None
        texts: dict[str, Any] = {} if self.labels is None else {"labels": read_labels(self.labels)}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(RANDOM_SEED)
            network: nn.Module = zoo.load(
                self.model, checkpoint=self.checkpoint, pretrained=has_own_weights,
                device=device, **texts,
            )  # fmt: skip
        if not has_own_weights:
            setattr(network, WEIGHTS_SOURCE, f"random, seed {RANDOM_SEED}")
            warnings.warn(
                f"model: its weights are random (seed {RANDOM_SEED}), so its predictions and maps "
                "have no meaning — leave out --random-weights to use trained weights",
                UserWarning,
                stacklevel=1,
            )
        if self.class_names_file is not None:
            count = declared_classes(network)
            network.classes = read_classes(  # type: ignore[assignment]
                self.class_names_file, count
            )
        return network if dtype is None else network.to(dtype)

    def _dtype(self) -> Any:
        """Return the dtype of `--precision`; None for that of the weights."""
        import torch

        if self.precision == "auto":
            return None
        if self.precision not in DTYPES:
            raise ValueError(unknown_name_message("precision", self.precision, ("auto", *DTYPES)))
        return getattr(torch, self.precision)


EMBEDDED = ModelOptions()  # no option: the embedded model


def model_options(command: Command) -> Command:
    """Give a command the options of `ModelOptions`, in place of its parameter `chosen_model`.

    A parameter of the command with the name of an option replaces that option.
    """
    signature = inspect.signature(command)
    hints = get_type_hints(command, include_extras=True)
    own_hints = get_type_hints(ModelOptions, include_extras=True)
    names = [field.name for field in fields(ModelOptions) if field.name not in signature.parameters]
    defaults = {field.name: field.default for field in fields(ModelOptions)}
    added = [
        inspect.Parameter(
            name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=defaults[name],
            annotation=own_hints[name],
        )
        for name in names
    ]  # fmt: skip
    parameters: list[inspect.Parameter] = []
    for name, parameter in signature.parameters.items():
        if name == "chosen_model":
            parameters += added
        else:
            parameters.append(parameter.replace(annotation=hints[name]))

    @functools.wraps(command)
    def run(*args: Any, **values: Any) -> Any:
        model_values = ModelOptions(**{name: values.pop(name) for name in names if name in values})
        return command(*args, chosen_model=model_values, **values)

    run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {
        parameter.name: parameter.annotation for parameter in parameters
    } | {"return": hints.get("return")}  # fmt: skip
    return run  # type: ignore[return-value]


def read_labels(text: str) -> list[str]:
    """Return the labels in a text, separated by commas, or the lines of a text file.

    Examples
    --------
    >>> read_labels("a cat, a dog")
    ['a cat', 'a dog']
    """
    if not _is_file(text):
        return [part.strip() for part in text.split(",")]
    try:
        lines, _ = read_lines(Path(text))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"labels: expected a text file with one label per line, got {text} ({error}) — save it "
            "as UTF-8"
        ) from error
    return [line.strip() for line in lines if line.strip()]


def _is_file(text: str) -> bool:
    try:
        return Path(text).is_file()
    except (OSError, ValueError):  # too long, or a character that no path has
        return False
