"""Imports of matplotlib and captum that work with any `MPLBACKEND` and matplotlibrc.

The import of matplotlib, and of captum, which imports it, fails if `MPLBACKEND` names a backend
that is not installed, as in a shell that a notebook started. Other modules import captum from here.
"""

from __future__ import annotations

import os
import sys
import threading
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

_LOCK = threading.RLock()


def import_matplotlib() -> None:
    """Import matplotlib, independent of `MPLBACKEND` and matplotlibrc.

    Environment variables are restored afterwards. If the backend of the caller exists, it is used.
    """
    with _LOCK:
        if "matplotlib" in sys.modules:
            return
        names = ("MPLBACKEND", "MATPLOTLIBRC")
        before = {name: os.environ.get(name) for name in names}
        try:
            os.environ.pop("MPLBACKEND", None)
            try:
                import matplotlib as mpl
            except (ValueError, OSError):  # a matplotlibrc that is not text, or cannot be read
                os.environ["MATPLOTLIBRC"] = str(_packaged_settings())
                for name in [name for name in sys.modules if name.startswith("matplotlib.")]:
                    del sys.modules[name]  # left over from the failed import
                import matplotlib as mpl
        finally:
            for name, value in before.items():
                os.environ.pop(name, None)
                if value is not None:
                    os.environ[name] = value
        with suppress(ValueError):
            if before["MPLBACKEND"]:
                mpl.rcParams["backend"] = before["MPLBACKEND"]


def _packaged_settings() -> Path:
    """Return the path of the matplotlibrc in the matplotlib package."""
    spec = find_spec("matplotlib")
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent / "mpl-data" / "matplotlibrc"


import_matplotlib()

from captum import attr, metrics  # noqa: E402 — needs matplotlib
from captum._utils.common import _select_targets as select_targets  # noqa: E402
from captum.attr import Attribution  # noqa: E402
from captum.log import log_usage  # noqa: E402

__all__ = [
    "Attribution",
    "attr",
    "import_matplotlib",
    "log_usage",
    "metrics",
    "select_targets",
]
