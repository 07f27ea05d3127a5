"""Damaged and hostile inputs for whatever reads files or model output: a named error, or a result.

    PYTHONPATH=tests python -m faults.fuzz --inputs 100000

Inputs are mutations of good ones, each a function of its number: a crash can be repeated.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from forests import large_forest

from tasks.lineage import FILE, Lineage
from treepo.errors import UserError, WorkError
from treepo.forest import Forest
from treepo.loading import load_experiment
from treepo.schemas import check_forest
from treepo.scoring.answers import boxed_answer, stated_answer
from treepo.scoring.math import shortcut
from treepo.scoring.rational import quantity
from treepo.storage import read_table, write_table

NAMED = (UserError, WorkError)
ROOT = Path(__file__).parents[2]
WORDS = [
    *(b"\x00", b"\xff\xfe", b"\xed\xa0\x80", "\u202e\u0660".encode(), b"\r\n", b"\t", b"\n- "),
    *(b": ", b"*a", b"&a ", b"<<: ", b"!!python/object:os.system ", b"{", b"}", b"[", b"]", b"'"),
    *(b'"', b"1e999", b"-0", b"nan", b".inf", b"9" * 400, b"null", b"~", b"true", b"../../x"),
    *(b"|\n", b"\\boxed{", b"\\frac{1}{0}", b"^{9^{9^9}}", b"\\sqrt", b"(" * 200, b"%", b",", b"$"),
]


@dataclass(frozen=True)
class Parser:
    """Something that reads. seeds: good inputs; read: raises a named error, or returns."""

    name: str
    seeds: Sequence[bytes]
    read: Callable[[bytes], object]


def mutated(rng: random.Random, seeds: Sequence[bytes]) -> bytes:
    """One of the seeds with a few bytes changed, words put in, parts removed or repeated."""
    data = bytearray(rng.choice(seeds))
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        at, end = sorted(rng.randrange(len(data) + 1) for _ in range(2))
        act = rng.randrange(5)
        if act == 0 and at < len(data):
            data[at] ^= 1 << rng.randrange(8)
        elif act == 1:
            data[at:at] = rng.choice(WORDS)
        elif act == 2:
            del data[at : min(end, at + 64)]
        elif act == 3:
            data[at:at] = data[at : min(end, at + 64)]
        else:
            data[at:end] = rng.choice(WORDS)
    return bytes(data)


def parsers(scratch: Path) -> list[Parser]:
    """All of them; files are read from `scratch`."""
    (scratch / "base.yaml").write_bytes((ROOT / "params/base.yaml").read_bytes())
    return [
        Parser("parameters", _params(), lambda data: _params_of(scratch, data)),
        Parser("forest", _forests(scratch), lambda data: _forest_of(scratch, data)),
        Parser("lineage", _records(), lambda data: _lineage_of(scratch, data)),
        Parser("answers", _answers(), _answer_of),
    ]


def _params() -> list[bytes]:
    names = ("quickstart", "smoke", "gsm8k", "qwen7b")
    return [(ROOT / f"params/{name}.yaml").read_bytes() for name in names]


def _params_of(scratch: Path, data: bytes) -> None:
    file = scratch / "fuzzed.yaml"
    file.write_bytes(data)
    load_experiment(file)


def _forests(scratch: Path) -> list[bytes]:
    files = [scratch / f"seed{number}.parquet" for number in range(4)]
    for number, file in enumerate(files):
        forest = large_forest(count=2, width=2 + number, depth=3, segment=4, seed=number)
        write_table(forest.to_arrow(), file)
    return [file.read_bytes() for file in files]


def _forest_of(scratch: Path, data: bytes) -> None:
    file = scratch / "fuzzed.parquet"
    file.write_bytes(data)
    Forest.from_arrow(read_table(file, check_forest))


def _records() -> list[bytes]:
    record = {
        "artifact": "iterations/000001/forest.parquet",
        "hash": "d41d8cd98f00b204e9800998ecf8427e",
        "step": "rollout",
        "iteration": 1,
        "inputs": {"data": "a.dir", "policy/000000": "b.dir"},
        "params": {"sampling": {"width": 16, "stops": ["eos"]}},
        "seed": 7,
    }
    lines = [json.dumps({**record, "iteration": number}) for number in range(3)]
    return ["\n".join([*lines, ""]).encode()]


def _lineage_of(scratch: Path, data: bytes) -> None:
    (scratch / FILE).write_bytes(data)
    list(Lineage(scratch))


def _answers() -> list[bytes]:
    texts = (
        r"so x = 3, and \boxed{\frac{3}{4}}",
        r"\boxed{1{,}000 \text{ apples}}",
        r"The answer is $\left(\frac{\pi}{2}, 3\right]$",
        r"\boxed{\begin{pmatrix}1 & 2\\3 & 4\end{pmatrix}}",
        r"#### 1,234.50%",
        r"\boxed{x \in \{1, 2\} \cup (3, \infty)}",
        r"2^{10} + \sqrt[3]{27}",
    )
    return [text.encode() for text in texts]


def _answer_of(data: bytes) -> None:
    text = data.decode("utf-8", "surrogatepass" if data.isascii() else "replace")
    found = boxed_answer(text)
    stated_answer(text)
    for answer in (text[:400], found or ""):
        quantity(answer)
        shortcut(r"\frac{3}{4}", answer)
        shortcut(answer, answer)


def fuzz(parser: Parser, inputs: int, first: int = 0) -> Counter[str]:
    """How often each outcome came. Raises what the parser should not have, naming the input."""
    outcomes: Counter[str] = Counter()
    for number in range(first, first + inputs):
        data = mutated(random.Random(f"{parser.name} {number}"), parser.seeds)
        try:
            parser.read(data)
            outcomes["read"] += 1
        except NAMED:
            outcomes["refused"] += 1
        except BaseException as error:
            raise AssertionError(f"{parser.name}: input {number}: {data!r:.2000}") from error
    return outcomes


def main() -> None:
    """A line a parser."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--inputs", type=int, default=100_000, help="in all")
    options.add_argument("--first", type=int, default=0, help="number of the first")
    options.add_argument("--only", default=None, help="one parser's name")
    asked = options.parse_args()
    with TemporaryDirectory() as folder:
        chosen = [p for p in parsers(Path(folder)) if asked.only in (None, p.name)]
        for parser in chosen:
            began = time.perf_counter()
            outcomes = fuzz(parser, asked.inputs // len(chosen), asked.first)
            seconds = time.perf_counter() - began
            print(f"{parser.name}: {dict(outcomes)} in {seconds:.0f} s", flush=True)


if __name__ == "__main__":
    main()
