"""The import of matplotlib, which is the same for every `MPLBACKEND` and matplotlibrc.

matplotlib and captum, which imports it, cannot be imported where `MPLBACKEND` names a backend that
this environment lacks, as in a shell that a notebook started.
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
    """Import matplotlib, whichever `MPLBACKEND` and matplotlibrc are in force.

    The environment is afterwards as it was, and a backend that exists stays the caller's choice.
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
            except (ValueError, OSError):  # a matplotlibrc that is no text, or cannot be read
                os.environ["MATPLOTLIBRC"] = str(_packaged_settings())
                for name in [name for name in sys.modules if name.startswith("matplotlib.")]:
                    del sys.modules[name]  # parts of the import that failed
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
    """Return the matplotlibrc that matplotlib comes with."""
    spec = find_spec("matplotlib")
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent / "mpl-data" / "matplotlibrc"
