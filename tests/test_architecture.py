"""The shape of the package, read from its source: who may import whom, what stays light."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import Counter
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import semattn

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "semattn"

# A module imports only from levels below its own. Folders count as one module.
LEVELS = (
    {"errors", "version"},
    {"utils"},
    {"grid", "images", "targets"},
    {"attention", "keypoints", "zoo", "metrics"},
    {"affinity", "data", "density"},
    {"explain", "interrelation", "masking"},
    {"evaluation", "prompting"},
    {"spurious"},
    {"audit", "viz"},
    {"integrations", "pretraining", "report"},
    {"cli"},
)
LEVEL = {name: level for level, names in enumerate(LEVELS) for name in names}

# The only modules that may name these packages; () allows nobody.
ONLY = {
    "captum": ("utils",),  # which sees to it that it can be imported
    "matplotlib": ("utils", "viz", "report"),
    "cv2": ("keypoints",),
    "faiss": ("keypoints",),
    "skimage": ("keypoints", "density", "explain"),
    "sklearn": ("spurious", "masking"),
    "timm": ("zoo",),
    "transformers": ("attention", "images", "integrations", "pretraining", "zoo"),
    "torchvision": ("zoo",),
    "open_clip": ("zoo",),
    "huggingface_hub": ("zoo",),
    "accelerate": ("pretraining",),
    "datasets": ("data",),
    "fsspec": ("utils",),
    "gradio": ("integrations",),
    "lightning": ("integrations",),
    "torchmetrics": ("integrations",),
    "onnx": ("zoo",),
    "ray": ("utils", "audit"),  # a session and tasks, and the engine of audits
    "typer": ("cli",),
    "rich": ("cli", "integrations"),  # a bar over a data loader, lazily
}

SOURCES = sorted(PACKAGE.rglob("*.py"))
INTERNAL = [path for path in SOURCES if path.parent != PACKAGE or not path.stem.startswith("__")]


def where(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def unit(path: Path) -> str:
    """The module of the level table that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> list[str]:
    """Return the full names of all modules that a file imports, at any level of the file."""
    package = ("semattn", *path.relative_to(PACKAGE).parts[:-1])
    names = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            name = ".".join((*base, *filter(None, [node.module])))
            # `from . import x` and `from semattn import x` may name a module.
            names += [f"{name}.{a.name}" for a in node.names] if name == "semattn" else [name]
    return names


def test_imports_are_read_from_every_form():
    names = {name for path in SOURCES for name in imports(path)}
    assert {"torch", "semattn.errors", "importlib"} <= names


@pytest.mark.parametrize("path", INTERNAL, ids=where)
def test_every_module_has_a_level(path):
    assert unit(path) in LEVEL, f"{where(path)}: give it a level in LEVELS"


@pytest.mark.parametrize("path", INTERNAL, ids=where)
def test_imports_go_down(path):
    own_unit = unit(path)
    for name in imports(path):
        parts = name.split(".")
        if parts[0] != "semattn" or parts[1] == own_unit or name == "semattn.__version__":
            continue
        assert LEVEL[parts[1]] < LEVEL[own_unit], (
            f"{where(path)} imports {name}: not below its level"
        )


@pytest.mark.parametrize("path", INTERNAL, ids=where)
def test_keypoints_and_attention_never_meet(path):
    never = {"keypoints": "attention", "density": "attention", "attention": "keypoints|density"}
    if unit(path) in never:
        pattern = re.compile(rf"semattn\.({never[unit(path)]})\b")
        assert not [name for name in imports(path) if pattern.match(name)]


# Files of the search for marks that use a model; the others must not.
WITH_MODEL = {"candidates", "interventions", "transplants", "cue"}
MARKS = sorted((PACKAGE / "spurious" / "marks").glob("*.py"))


@pytest.mark.parametrize("path", [path for path in MARKS if path.stem not in WITH_MODEL], ids=where)
def test_the_search_for_marks_needs_no_model(path):
    models = r"semattn\.(attention|density|explain|interrelation|prompting)\b"
    shared = r"semattn\.spurious(\.(?!batch_store$|significance$|marks\b)|$)"
    own = rf"semattn\.spurious\.marks\.({'|'.join(WITH_MODEL)})$"
    forbidden = re.compile(f"{models}|{shared}|{own}")
    assert not [name for name in imports(path) if forbidden.match(name)]


@pytest.mark.parametrize("path", INTERNAL, ids=where)
def test_packages_are_named_only_where_they_belong(path):
    for name in imports(path):
        top = name.split(".")[0]
        assert unit(path) in ONLY.get(top, (unit(path),)), f"{where(path)} imports {name}"


# Functions that make a tensor where `torch.set_default_device` says, unless told otherwise.
FACTORIES = {
    "arange", "as_tensor", "empty", "eye", "full", "linspace", "logspace", "ones", "rand",
    "randint", "randn", "randperm", "tensor", "tril_indices", "triu_indices", "zeros",
}  # fmt: skip


@pytest.mark.parametrize("path", SOURCES, ids=where)
def test_every_factory_names_its_device(path):
    calls = [
        node
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
        if isinstance(node.func.value, ast.Name) and node.func.value.id == "torch"
    ]
    for call in calls:
        named = "device" in {keyword.arg for keyword in call.keywords}
        assert named or call.func.attr not in FACTORIES, f"line {call.lineno}: say device=…"


def test_nobody_draws_through_global_state():
    assert not [path for path in SOURCES if "matplotlib.pyplot" in imports(path)]


def test_import_is_light():
    heavy = {*ONLY, "torch", "captum"}
    code = f"import sys, semattn; print([m for m in {heavy!r} if m in sys.modules])"
    command = [sys.executable, "-W", "error", "-c", code]
    run = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert run.stdout.strip() == "[]", run.stderr


def test_the_public_names_exist():
    assert set(dir(semattn)) == set(semattn.__all__) == {*semattn._HOME, "__version__"}
    for name in semattn.__all__:
        assert getattr(semattn, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        semattn.nothing  # noqa: B018 — asking is the test


def public(body: list[ast.stmt], prefix: str):
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            is_overload = any(getattr(part, "id", "") == "overload" for part in node.decorator_list)
            if node.name.startswith("_") or is_overload:
                continue
            yield f"{prefix}.{node.name}", node
            if isinstance(node, ast.ClassDef):
                yield from public(node.body, f"{prefix}.{node.name}")


@pytest.mark.parametrize("path", SOURCES, ids=where)
def test_what_is_public_is_documented(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    bare = [] if ast.get_docstring(tree) else ["the module"]
    bare += [name for name, node in public(tree.body, path.stem) if not ast.get_docstring(node)]
    assert not bare, f"{where(path)}: no docstring on {', '.join(bare)}"


def test_the_readme_says_what_this_is():
    text = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    for phrase in (
        "re-implementation from the abstract",
        "the definitions are this project's",
        "no number of the paper is reproduced or claimed",
        "make demo",
        "make test",
    ):
        assert phrase in text


def texts():
    """Return the text files of the repository, tracked or untracked by git."""
    command = ["git", "ls-files", "-co", "--exclude-standard"]
    listed = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    kinds = {".py", ".md", ".cfg", ".toml", ".cff", ".json", ".txt", ".yml", ".yaml", "", ".csv"}
    paths = [ROOT / line for line in listed.stdout.splitlines()]
    return [path for path in paths if path.suffix in kinds and path.is_file()]


def test_no_path_of_a_machine():
    absolute = re.compile(r"(?<![\w.~/:-])/(work|home|root|Users|tmp|opt)/\w")
    for path in texts():
        match = absolute.search(path.read_text(encoding="utf-8", errors="replace"))
        assert not match, f"{where(path)} holds the absolute path {match.group()!r}…"


# The shape of the package. A file more is a reason to merge two that are always read together.
# 190 files without the search for marks, 6 for descriptor targets, 3 for relevance propagation,
# 10 for models of other libraries, 2 for the conservation of relevance and for the first layer,
# 2 for results in notebooks, 2 for SIFT on the GPU, 4 for checks of results, 2 for object stores
# and data sets of the Hugging Face library, 8 for the tools of other libraries, 5 for engines,
# 2 for the index of archives, 2 for results on stores, 1 for the widget, 2 for drawn marks.
MAX_FILES, MAX_ROOMS, MAX_ARROWS = 284, 28, 180


def _classes() -> dict[str, list[str]]:
    """Return the files that define each class."""
    files: dict[str, list[str]] = {}
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                files.setdefault(node.name, []).append(where(path))
    return files


def test_no_two_classes_have_one_name():
    assert not {name: files for name, files in _classes().items() if len(files) > 1}


def test_no_three_files_have_one_name():
    names = Counter(path.name for path in SOURCES if path.name != "__init__.py")
    assert not {name: count for name, count in names.items() if count > 2}


def test_imports_of_files_have_an_order():
    files = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts): path
        for path in SOURCES
        if path.name != "__init__.py"
    }
    needed = {}
    for module, path in files.items():
        names = set()
        for node in ast.parse(path.read_text(encoding="utf-8")).body:  # at the top level
            if isinstance(node, ast.ImportFrom):
                base = ".".join(module.split(".")[: -node.level])
                base = f"{base}.{node.module}" if node.module else base
                names |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
        needed[module] = names & files.keys()
    assert needed["semattn.spurious.search"] >= {"semattn.spurious.marks.candidates"}
    TopologicalSorter(needed).prepare()  # CycleError names files that import each other


def test_the_package_stays_small():
    arrows = {
        (unit(path), name.split(".")[1])
        for path in INTERNAL
        for name in imports(path)
        if name.startswith("semattn.") and name.split(".")[1] in LEVEL
    }
    arrows -= {(name, name) for name in LEVEL}
    assert len(SOURCES) <= MAX_FILES
    assert len(LEVEL) <= MAX_ROOMS
    assert len(arrows) <= MAX_ARROWS


def test_the_top_level_holds_seven_files():
    assert len(list(PACKAGE.glob("*.py"))) == 7
