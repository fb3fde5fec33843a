"""The pages of the site, laid out for Sphinx: every document as it lies, and one page per module.

Everything is found by its place. A new cell, task or measurement, a study or a decision is a page once its file exists.
"""

from __future__ import annotations

import ast
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

DOCUMENTS = (
    "*.md",
    "LICENSE",
    "CITATION.cff",
    "docs/*.md",
    "docs/decisions/*.md",
    "experiments/**/*.md",
    "experiments/*/*.png",
    "examples/**/*.md",
)
KINDS = {"cells": "model", "tasks": "task", "measurements": "measurement"}
"""The rooms whose files are a page each among their like, with the group of configurations that names them."""
LIBRARY = (*(f"{room}/*.py" for room in KINDS), "theory/*.py", "jacobians/*.py", "network.py", "readouts.py")
"""What else has a page: what those rooms share, and what their equations rest on."""

_PACKAGE = Path("src/gradhorizon")
_NAVIGATION = {
    "Guide": (
        "docs/models",
        "docs/own_*",
        "docs/compatibility",
        "docs/modules",
        "docs/reading",
        "docs/records",
        "CONTRIBUTING",
        "examples/*/index",
    ),
    "Studies": ("experiments/index", "experiments/*/index"),
    "Cells": ("reference/cells/*",),
    "Tasks": ("reference/tasks/*",),
    "Measurements": ("reference/measurements/*",),
    "Library": ("reference/gradhorizon", "reference/library/*"),
    "How it is made": ("docs/*", "docs/decisions/index", "docs/decisions/*", "CHANGELOG"),
}


def lay_out(root: Path, into: Path) -> None:
    """Write every page of the repository at `root`, in the repository's own layout, into the empty folder `into`."""
    for pattern in DOCUMENTS:
        for path in sorted(root.glob(pattern)):
            _copy(path, into / path.relative_to(root))
    for name, text in reference(root).items():
        _write(into / name, text)
    with (into / "index.md").open("a", encoding="utf-8") as front:
        front.write(_navigation(into))


def reference(root: Path) -> dict[str, str]:
    """The text of each page about code, under its name below the layout."""
    calls = "# gradhorizon\n\n" + _rst(".. automodule:: gradhorizon\n   :members:")
    return {"reference/gradhorizon.md": calls, **dict(map(_page, _modules(root)))}


@dataclass(frozen=True)
class _Module:
    """A module of the package in the repository at `root`; `place` is its file below the package."""

    root: Path
    place: Path

    @property
    def name(self) -> str:
        return ".".join(self.place.with_suffix("").parts)

    @property
    def path(self) -> Path:
        return self.root / _PACKAGE / self.place

    @property
    def room(self) -> str:
        return self.place.parts[0]

    def configurations(self) -> dict[Path, str]:
        """The texts of the files that configure it, if it is a cell, a task or a measurement and no part of one."""
        if self.room not in KINDS:
            return {}
        group = KINDS[self.room]
        texts = {file: file.read_text(encoding="utf-8") for file in sorted((self.root / "conf" / group).glob("*.yaml"))}
        own = {file: text for file, text in texts.items() if f"gradhorizon.{self.name}." in text}
        targets = [target for text in own.values() for target in _targets(yaml.safe_load(text), group)]
        return own if any(target.startswith(f"gradhorizon.{self.name}.") for target in targets) else {}


def _modules(root: Path) -> list[_Module]:
    package = root / _PACKAGE
    found = [path for pattern in LIBRARY for path in sorted(package.glob(pattern)) if path.name != "__init__.py"]
    return [_Module(root, path.relative_to(package)) for path in found]


def _targets(configuration: dict[str, Any], group: str) -> list[str]:
    nodes = (configuration, configuration.get(group), configuration.get("cell"))
    return [str(node["_target_"]) for node in nodes if isinstance(node, dict) and "_target_" in node]


def _page(module: _Module) -> tuple[str, str]:
    configurations = module.configurations()
    shelf, title = (module.room, module.path.stem) if configurations else ("library", module.name)
    text = f"# {title}\n\n" + _rst(f".. automodule:: gradhorizon.{module.name}")
    if f"\n## `{title}`\n" in (module.root / "docs/records.md").read_text(encoding="utf-8"):
        text += f"\nIts table, column by column: [records](../../docs/records.md#{title}).\n"
    text += f"\n## Interface\n\n{_interface(module)}"
    if configurations:
        text += "\n## In configurations\n"
    for file, content in configurations.items():
        choice = f"`gradhorizon {file.parent.name}={file.stem}` is `{file.relative_to(module.root).as_posix()}`"
        text += f"\n{choice}:\n\n```yaml\n{content}```\n"
    return f"reference/{shelf}/{title}.md", text


def _interface(module: _Module) -> str:
    body = ast.parse(module.path.read_text(encoding="utf-8")).body
    entries = [_entry(node, after) for node, after in zip(body, [*body[1:], None], strict=True)]
    return _rst(f".. currentmodule:: gradhorizon.{module.name}\n\n" + "\n".join(entry for entry in entries if entry))


def _entry(node: ast.stmt, after: ast.stmt | None) -> str | None:
    """What documents one public name of a module: a class, a function, or a constant with a text below it."""
    match node:
        case ast.ClassDef(name=name) if not name.startswith("_"):
            return f".. autoclass:: {name}\n   :members:\n   :show-inheritance:\n"
        case ast.FunctionDef(name=name) if not name.startswith("_"):
            return f".. autofunction:: {name}\n"
        case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
            is_told = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
            return f".. autodata:: {name}\n   :no-value:\n" if is_told and not name.startswith("_") else None
    return None


def _rst(text: str) -> str:
    return f"```{{eval-rst}}\n{text}\n```\n"


def _copy(path: Path, to: Path) -> None:
    if path.suffix != ".md":
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, to)
        return
    text = re.sub(r"(\]\([^)\s]*?)README\.md", r"\1index.md", path.read_text(encoding="utf-8"))
    _write(to.with_name("index.md") if to.name == "README.md" else to, text)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _navigation(laid_out: Path) -> str:
    """The tables of contents of the side bar; a page stands where it is found first."""
    text, seen = "", set[str]()
    for caption, patterns in _NAVIGATION.items():
        found = [path for pattern in patterns for path in sorted(laid_out.glob(f"{pattern}.md"))]
        names = dict.fromkeys(path.relative_to(laid_out).with_suffix("").as_posix() for path in found)
        listed = [name for name in names if name not in seen]
        seen.update(listed)
        text += "\n```{toctree}\n:hidden:\n:caption: " + caption + "\n\n" + "\n".join(listed) + "\n```\n"
    return text
