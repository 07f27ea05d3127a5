"""Lineage for people: an ancestry as trees, and two runs compared.

These commands import nothing that takes long, so they answer at once. The tree is drawn here: rich
takes two seconds for the 3,500 lines of a run of 500 iterations.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tasks.ancestry import Ancestor, ancestry
from tasks.compare import Comparison, FirstDifference, Pair, compare
from tasks.lineage import FILE, locate

SHORT = 12  # characters of a hash that are shown


def show_lineage(path: Path) -> None:
    """Print where an artifact comes from."""
    lineage, artifact = locate(path)
    for top in ancestry(lineage, artifact):
        print(_label(top))
        print("".join(f"{line}\n" for line in _below(top, "")), end="")


def _below(node: Ancestor, indent: str) -> Iterator[str]:
    """The lines of a node's inputs, and of the user's files that it was made from."""
    files = node.record.files if node.record else {}
    leaves = [f"{name}  file  {digest[:SHORT]}" for name, digest in files.items()]
    leaves += [
        f"{where}: {', '.join(names)}"
        for where, names in (("above", node.above), ("below", node.below))
        if names
    ]
    last = len(node.inputs) + len(leaves) - 1
    for number, child in enumerate(node.inputs):
        yield f"{indent}{'└── ' if number == last else '├── '}{_label(child)}"
        yield from _below(child, indent + ("    " if number == last else "│   "))
    for number, text in enumerate(leaves, len(node.inputs)):
        yield f"{indent}{'└── ' if number == last else '├── '}{text}"


def _label(node: Ancestor) -> str:
    """One line: name, step, hash, seconds, and what is odd about it."""
    record = node.record
    if record is None:
        return f"{node.name}  not recorded"
    step = f"{record.step} {record.iteration}" if record.iteration else record.step
    text = f"{node.name}  {step}  {record.hash[:SHORT]}  {record.seconds:.1f} s"
    if record.taken_from:
        text += f"  from {record.taken_from}"
    if not node.is_there:
        text += "  (removed)"
    if node.wanted and node.wanted != record.hash:
        text += f"  (made again since it was read as {node.wanted[:SHORT]})"
    return text


def show_difference(a: str, b: str, runs: Path) -> bool:
    """Print how two runs differ; says whether they do. A run is a folder, or a name in `runs`."""
    found = compare(_folder(a, runs), _folder(b, runs))
    for line in _lines(found):
        print(line)
    return not found.equal


def _folder(run: str, runs: Path) -> Path:
    """The folder of a run given by name or path."""
    path = Path(run)
    return path if (path / FILE).is_file() else runs / run


def _lines(found: Comparison) -> list[str]:
    if found.equal:
        return [f"the same: {found.same} artifacts"]
    lines: list[str] = []
    for part in ("params", "code", "packages", "device", "data"):
        pairs: dict[str, Pair] = getattr(found, part)
        lines += [f"{part}:" if pairs else f"{part}: the same", *_indented(pairs)]
    lines += _first(found.first) if found.first else ["artifacts: the same where both have them"]
    only_a, only_b = found.alone
    lines.append(f"artifacts: {found.same} the same, {only_a} only in A, {only_b} only in B")
    return lines


def _first(first: FirstDifference) -> list[str]:
    """The first artifact that differs, and what can have made the difference."""
    a, b = first.hashes
    lines = [f"first difference: {first.artifact} (step {first.step})", f"  hash: {a} / {b}"]
    lines.append(f"  inputs that differ: {', '.join(first.inputs) or 'none'}")
    lines.append(f"  params it reads that differ: {', '.join(first.params) or 'none'}")
    if first.made_with:
        lines += ["  made with:", *_indented(first.made_with, 4)]
    return lines


def _indented(pairs: dict[str, Pair], by: int = 2) -> list[str]:
    return [f"{' ' * by}{name}: {a} / {b}" for name, (a, b) in pairs.items()]
