"""Import of captum. Other modules import it from here, because captum needs matplotlib."""

from __future__ import annotations

from .matplotlib_import import import_matplotlib

import_matplotlib()

from captum import attr, metrics  # noqa: E402 — needs matplotlib
from captum._utils.common import _select_targets as select_targets  # noqa: E402
from captum.attr import Attribution  # noqa: E402
from captum.log import log_usage  # noqa: E402

__all__ = ["Attribution", "attr", "log_usage", "metrics", "select_targets"]
