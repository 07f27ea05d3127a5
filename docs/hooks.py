"""What mkdocs makes at build time: parameters, commands, the library's pages, measurements.

All of it is read from the code, so it cannot disagree with it. `mkdocs.yml` names this file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import click
import typer
import yaml
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import get_plugin_logger
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from pydantic import BaseModel

from flows.cli import app
from treepo.loading import Described, describe
from treepo.params import BenchmarkRunParams, DatasetParams, EfficiencyParams, ExperimentParams
from treepo.params.ablation import AblationParams
from treepo.plugins import BUILT_IN, import_plugins
from treepo.registry import REGISTRIES

ROOT = Path(__file__).parents[1]
LAYERS = {"treepo": "the method", "tasks": "the steps", "flows": "the flows and the command line"}
KINDS: tuple[tuple[str, type[BaseModel], str], ...] = (
    ("Experiment", ExperimentParams, "`params/NAME.yaml`, run by `treepo run NAME`."),
    (
        "Evaluation",
        BenchmarkRunParams,
        "`params/evaluations/NAME.yaml`, by `treepo evaluate NAME`.",
    ),
    ("Efficiency", EfficiencyParams, "`params/efficiency/NAME.yaml`, by `treepo efficiency NAME`."),
    ("Ablation", AblationParams, "`params/ablations/NAME.yaml`, by `treepo ablate NAME`."),
    ("Recipe", DatasetParams, "`params/datasets/NAME.yaml`, used by name in `data.source`."),
)
LOG = get_plugin_logger("treepo")
# A mermaid block makes the theme load its renderer from a CDN.
ELSEWHERE = re.compile(
    r'<(?:script|img|iframe|source)[^>]+src="?(?:https?:)?//[^">]*'
    r'|<link[^>]+rel="stylesheet"[^>]+href="?(?:https?:)?//[^">]*|class="mermaid"'
)
UNIT = re.compile(r" ?\[([A-Za-z/]+)\]")
PAPER = re.compile(r" ?\((?:paper:? )([^()]*(?:\([^()]*\))?[^()]*)\)")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Add to the navigation what is found, not listed: library pages and further guides."""
    nav: list[dict[str, Any]] = config.nav or []
    sections = {title: pages for entry in nav for title, pages in entry.items()}
    sections["Reference"] += [
        {f"{layer}: {meaning}": [{name: _page_of(name)} for name in _packages(layer)]}
        for layer, meaning in LAYERS.items()
    ]
    listed = json.dumps(nav)
    sections["Guides"] += [
        {_title(file): file.name}
        for file in sorted((ROOT / "docs").glob("*.md"))
        if f'"{file.name}"' not in listed
    ]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages."""
    pages = {
        "reference/parameters.md": _parameters(),
        "reference/commands.md": _commands(),
        "measurements.md": _measurements(),
    }
    for layer in LAYERS:
        pages |= {_page_of(name): _library(name, mods) for name, mods in _packages(layer).items()}
    for path, content in pages.items():
        files.append(File.generated(config, path, content=content))
    return files


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """A page that would load anything from elsewhere is a warning, and so an error."""
    for found in ELSEWHERE.finditer(output):
        LOG.warning("%s loads something from elsewhere: %s", page.file.src_uri, found[0])
    return output


# The library, from docstrings.


def _packages(layer: str) -> dict[str, list[str]]:
    """Each package of a layer with its modules, by dotted names."""
    found: dict[str, list[str]] = {}
    for file in sorted((ROOT / layer).rglob("*.py")):
        parts = file.relative_to(ROOT).with_suffix("").parts
        package = ".".join(parts[:-1])
        own = parts[-1] == "__init__"
        found.setdefault(package, []).append(package if own else ".".join(parts))
    return dict(sorted(found.items()))


def _page_of(package: str) -> str:
    return f"reference/library/{package}.md"


def _library(package: str, modules: list[str]) -> str:
    lines = [f"# {package}", ""]
    for module in modules:
        source = ROOT / (module.replace(".", "/"))
        if source.is_dir() and not (source / "__init__.py").read_text().strip():
            continue
        # A package's own page shows what it says of itself; its parts have their own entries.
        options = ["    options:", "      members: false"] if source.is_dir() else []
        lines += [f"::: {module}", *options, ""]
    return "\n".join(lines)


# The parameters, from the models and the registries.


def _parameters() -> str:
    import_plugins((*BUILT_IN, "treepo.scoring"))
    places = dict(_places())
    lines = [
        "# Parameters",
        "",
        "Every parameter, as `treepo params` prints them, with its default. A value is given in a "
        "YAML file, or on the command line as `--set section.key=value`. The unit stands apart; "
        "where there is none, the meaning says what is counted. The last column is the paper's own "
        "value, and the table or figure in which the paper varies the parameter.",
        "",
    ]
    seen: dict[type[BaseModel], tuple[str, str]] = {}
    for title, model, where in KINDS:
        lines += [f"## {title}", "", f"{where} {_first_line(model)}", ""]
        lines += _sections(model, title, places, seen)
    return "\n".join(lines)


def _sections(
    model: type[BaseModel],
    title: str,
    places: dict[str, str],
    seen: dict[type[BaseModel], tuple[str, str]],
) -> Iterator[str]:
    """A table a section; a section that another kind has too is only pointed to."""
    grouped: dict[str, list[Described]] = {}
    for entry in describe(model):
        grouped.setdefault(entry.key.rpartition(".")[0], []).append(entry)
    pointed: set[str] = set()
    for prefix, entries in grouped.items():
        section = entries[0].section
        heading = prefix or "top level"
        if any(prefix.startswith(f"{above}.") for above in pointed):
            continue
        if section in seen:
            pointed.add(prefix)
            name, anchor = seen[section]
            yield from (f"### {heading}", "", f"As [{name}](#{anchor}).", "")
            continue
        anchor = "-".join([title, *(prefix or "top").split(".")]).lower()
        seen[section] = (prefix, anchor)
        yield from (f"### {heading} {{#{anchor}}}", "")
        if prefix:
            yield from (_first_line(section), "")
        yield "| parameter | default | values | unit | meaning | paper |"
        yield "|---|---|---|---|---|---|"
        for entry in entries:
            yield _row(entry, places.get(entry.key, ""))
        yield ""
        for entry in entries:
            yield from _choices(entry)


def _first_line(model: type[BaseModel]) -> str:
    return (model.__doc__ or "").split("\n\n")[0].replace("\n", " ").strip()


def _row(entry: Described, place: str) -> str:
    name = entry.key.rpartition(".")[2]
    units, paper = UNIT.findall(entry.description), PAPER.findall(entry.description)
    meaning = PAPER.sub(
        "", UNIT.sub("", entry.description) if len(units) == 1 else entry.description
    )
    cells = [
        f"`{name}`",
        _shown(entry.value),
        "names, below" if entry.key in REGISTRIES else _values(entry.section.model_fields[name]),
        ", ".join(units),
        meaning,
        "; ".join([*paper, *([place] if place else [])]),
    ]
    return "| " + " | ".join(map(_cell, cells)) + " |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _shown(value: Any) -> str:
    if value == "(required)":
        return "required"
    return f"`{json.dumps(value, default=str)}`"


def _values(field: Any) -> str:
    """What a field takes: its type and its bounds."""
    return _type(field.annotation, field.metadata)


def _type(annotation: Any, metadata: Any = ()) -> str:
    bounds = [*_bounds(metadata)]
    if getattr(annotation, "__metadata__", None):
        inner = [
            part for extra in annotation.__metadata__ for part in getattr(extra, "metadata", ())
        ]
        return _type(annotation.__origin__, [*inner, *metadata])
    parts = get_args(annotation)
    kind = getattr(annotation, "__origin__", None)
    if str(kind) == "typing.Literal":
        return ", ".join(f"`{json.dumps(part)}`" for part in parts)
    if kind in (list, tuple, dict):
        inner = [_type(part) for part in parts if part is not Ellipsis]
        inner = [f"({name})" if " or " in name else name for name in inner]
        name = {list: "list of", tuple: "list of", dict: "mapping of"}[kind]
        if kind is tuple and Ellipsis not in parts:
            return f"[{', '.join(inner)}]"
        return f"{name} {' to '.join(inner)}"
    if parts:
        return " or ".join(
            "null" if part is type(None) else _type(part, metadata) for part in parts
        )
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "section"
    names = {int: "integer", float: "number", str: "text", bool: "true, false", Any: "anything"}
    return f"{names.get(annotation, annotation)} {', '.join(bounds)}".strip()


def _bounds(metadata: Any) -> Iterator[str]:
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    for bound in metadata:
        for name, sign in signs.items():
            if getattr(bound, name, None) is not None:
                yield f"{sign}\N{NO-BREAK SPACE}{getattr(bound, name):g}"


def _choices(entry: Described) -> Iterator[str]:
    """The names that a parameter can choose, each with its meaning."""
    if entry.key not in REGISTRIES:
        return
    registry = REGISTRIES[entry.key]
    yield from (f"The names that `{entry.key}` takes:", "")
    yield from ("| name | meaning |", "|---|---|")
    for name, meaning in registry.describe():
        yield f"| `{name}` | {_cell(meaning)} |"
    yield ""


def _places() -> Iterator[tuple[str, str]]:
    """Dotted key -> the paper's tables and figures that vary it, from params/ablations."""
    found: dict[str, list[str]] = {}
    for file in sorted((ROOT / "params" / "ablations").glob("[!_]*.yaml")):
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
        place = re.match(r"(Table|Fig\.) \d+", values.get("description", ""))
        if place:
            for key in dict.fromkeys(_varied(values)):
                found.setdefault(key, []).append(place[0])
    for key, names in found.items():
        yield key, ", ".join(sorted(names))


def _varied(values: Any) -> Iterator[str]:
    """The dotted keys on the axes of an ablation, in all its sizes."""
    axes = values.get("axes") or {}
    for kind in ("grid", "zip"):
        yield from axes.get(kind) or {}
    for variant in axes.get("list") or ():
        yield from variant.get("set") or {}
    for size in (values.get("sizes") or {}).values():
        yield from _varied(size or {})


# The command line, from its own help.


def _commands() -> str:
    group = typer.main.get_command(app)
    context = click.Context(group, info_name="treepo")
    lines = [
        "# Commands",
        "",
        "Exit codes: 0 done, 1 the work failed or differs, 2 the input is wrong; then one line "
        "names the file, key or row. `treepo COMMAND --help` prints what stands here.",
        "",
    ]
    for name in group.list_commands(context):  # type: ignore[attr-defined]
        command = group.get_command(context, name)  # type: ignore[attr-defined]
        lines += [f"## treepo {name}", "", command.help or "", ""]
        own = click.Context(command, info_name=name, parent=context)
        lines += ["```text", command.get_usage(own).removeprefix("Usage: "), "```", ""]
        lines += ["| argument | meaning | default |", "|---|---|---|"]
        for part in command.params:
            if part.name != "help":
                lines.append(_argument(part))
        lines.append("")
    return "\n".join(lines)


def _argument(part: Any) -> str:
    name = part.opts[0] if part.param_type_name == "option" else (part.name or "").upper()
    default = "required" if part.required else "" if part.default is None else f"`{part.default}`"
    return f"| `{name}` | {_cell(part.help or '')} | {default} |"


# What was measured.


def _measurements() -> str:
    """The benchmarks' own account, under the site's title."""
    text = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
    return re.sub(r"\A# .*\n", "# Measurements\n", text).replace("](../docs/", "](")


def _title(file: Path) -> str:
    """The first heading of a page."""
    found = re.search(r"^# (.+)$", file.read_text(encoding="utf-8"), re.MULTILINE)
    return found[1] if found else file.stem
