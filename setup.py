"""Text of the package index: README.md without the relative links, which do not work there.

All other metadata are in setup.cfg. A line `Source = https://…` of its `project_urls` makes links
to that repository. Without it, paths in the source distribution replace them.
"""

import re
from pathlib import Path

RELATIVE_LINK = re.compile(r"(!?)\[([^]]+)\]\((?!\w+:)([^)]+)\)")


def index_text(readme: str, source: str | None) -> str:
    """Return README.md with absolute links, or without relative links if `source` is None."""

    def replace(link: re.Match[str]) -> str:
        picture, text, path = link.groups()
        if source:
            path = f"README.md{path}" if path.startswith("#") else path
            return f"{picture}[{text}]({source}/{'raw' if picture else 'blob'}/main/{path})"
        if picture:
            return f"*{path}: {text}*"
        return text if path.startswith("#") or "`" in text or text == path else f"{text} ({path})"

    readme = re.sub(r"pip install \.(?=\s)", "pip install semattn", readme)
    return RELATIVE_LINK.sub(replace, readme.replace("'.[", "'semattn["))


if __name__ == "__main__":
    from setuptools import setup

    files = [Path(__file__).with_name(name) for name in ("README.md", "setup.cfg")]
    readme, settings = (file.read_text(encoding="utf-8") for file in files)
    source = re.search(r"^    Source = (\S+)$", settings, re.MULTILINE)
    setup(long_description=index_text(readme, source and source[1]))
