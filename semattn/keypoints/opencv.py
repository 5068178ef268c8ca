"""Import of OpenCV, and the commands that repair an installation of it.

Each build of OpenCV (`BUILDS`) installs its files into the same folder, `cv2`. Two builds in one
environment overwrite each other, and the removal of one breaks the other. The builds that are not
headless need a library of the system, `libGL.so.1`, which minimal containers lack.
"""

from __future__ import annotations

import ctypes
import re
import shlex
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution
from typing import Any

from ..errors import MissingPackageError, plain

DEPENDENCY = "opencv-python"
HEADLESS = "opencv-python-headless"
BUILDS = (DEPENDENCY, HEADLESS, "opencv-contrib-python", "opencv-contrib-python-headless")
SYSTEM_PACKAGES = "apt install libgl1 libglib2.0-0"
_MISSING_LIBRARY = re.compile(r"\.so[.\d]*: cannot open shared object")


def import_cv2() -> Any:
    """Return the module cv2.

    Raises
    ------
    MissingPackageError
        If it is absent or broken; the message has the commands that repair it.
    """
    try:
        import cv2

        if not hasattr(cv2, "SIFT_create"):
            raise AttributeError("a folder cv2 without SIFT_create, which a removed build left")
    except Exception as error:  # a mixture of two builds raises errors of many classes
        commands = repair_commands(str(error))
        raise MissingPackageError(
            f"opencv: expected cv2 to import, got {_reason(error)} — run "
            f"{'; or '.join(commands.values())}; the detector 'sift-skimage' needs no OpenCV"
        ) from error
    return cv2


def installation_problem() -> tuple[str, dict[str, str]]:
    """Return what is wrong with the installed OpenCV, and the commands that repair it.

    Returns
    -------
    "" and no commands for one build that can be imported
    """
    try:
        import_cv2()
    except MissingPackageError as error:
        reason = _reason(error.__cause__ or error)
        return f"expected cv2 to import, got {reason}", repair_commands(reason)
    builds = installed_builds()
    if len(builds) < 2:
        return "", {}
    names = " and ".join(f"{name} {version}" for name, version in builds.items())
    return (
        f"expected one build, got {names}: each overwrites files of the other",
        repair_commands(""),
    )


def installed_builds() -> dict[str, str]:
    """Return the version of each installed build that has files in the folder `cv2`."""
    builds = {}
    for name in BUILDS:
        try:
            build = distribution(name)
        except PackageNotFoundError:
            continue
        # conda adds names without files, so that requirements for any build are met
        if any(file.parts[0] == "cv2" for file in build.files or ()):
            builds[name] = build.version
    return builds


def repair_commands(reason: str) -> dict[str, str]:
    """Return the commands that leave one working build, by installer: "pip" and "uv".

    Parameters
    ----------
    reason : the error of `import cv2`; "" if it can be imported

    Returns
    -------
    Commands of a shell. If a library of the system is missing, "apt" has the command that adds it
    instead.
    """
    builds = installed_builds()
    lacks_library = bool(_MISSING_LIBRARY.search(reason)) or not _has_libgl()
    build = HEADLESS if lacks_library else DEPENDENCY
    version = builds.get(build) or next(iter(builds.values()), "")
    pinned = f"{build}=={version}" if version else build
    python = _quoted(sys.executable)
    pip_steps = [f"{python} -m pip install --no-deps --force-reinstall {pinned}"]
    uv_steps = [f"uv pip install --python {python} --no-deps --reinstall {pinned}"]
    if builds:
        names = " ".join(builds)
        pip_steps.insert(0, f"{python} -m pip uninstall --yes {names}")
        uv_steps.insert(0, f"uv pip uninstall --python {python} {names}")
    commands = {"pip": " && ".join(pip_steps), "uv": " && ".join(uv_steps)}
    return commands | ({"apt": SYSTEM_PACKAGES} if lacks_library and reason else {})


def _has_libgl() -> bool:
    """Return whether the library that the builds with windows need is there."""
    if sys.platform != "linux":
        return True
    try:
        ctypes.CDLL("libGL.so.1")
    except OSError:
        return False
    return True


def _quoted(path: str) -> str:
    return subprocess.list2cmdline([path]) if sys.platform == "win32" else shlex.quote(path)


def _reason(error: BaseException) -> str:
    """Return the message of an error as one short line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return plain(text)[:160]
