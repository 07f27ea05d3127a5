"""Draws the pictures again, from the root of the repository.

    python -m docs.pictures concepts                   # docs/concepts/*.svg, from example.json
    python -m docs.pictures concepts runs/quickstart   # samples example.json anew before
    python -m docs.pictures sampling runs/quickstart   # docs/sampling/*.svg
    python -m docs.pictures ablation runs/ablations/main-small   # docs/results, and its page
    python -m docs.pictures training gsm8k runs/gsm8k runs/gsm8k_grpo   # the same

A named experiment lends its warm-started policy and its held-out problems.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from docs.pictures import CONCEPTS
from docs.pictures.ablations import Outcome
from docs.pictures.example import FILE, read_example, sample_example
from docs.pictures.sampling import sampling_pictures
from docs.pictures.source import Source
from docs.pictures.training import Training
from treepo.errors import UserError

DOCS = Path(__file__).parents[1]


def draw_concepts(experiment: Path | None) -> None:
    """Draw docs/concepts; sample the example first where an experiment is named."""
    if experiment is not None:
        FILE.write_text(sample_example(Source.of(experiment)), encoding="utf-8")
    example = read_example()
    for name, draw in CONCEPTS.items():
        (DOCS / "concepts" / f"{name}.svg").write_text(draw(example), encoding="utf-8")


def draw_sampling(experiment: Path) -> None:
    """Sample and draw docs/sampling."""
    folder = DOCS / "sampling"
    folder.mkdir(exist_ok=True)
    for family, picture in sampling_pictures(Source.of(experiment)):
        (folder / f"{family}.svg").write_text(picture, encoding="utf-8")


def main() -> None:
    """Read the command line and draw."""
    parser = argparse.ArgumentParser(prog="python -m docs.pictures")
    kinds = parser.add_subparsers(required=True)
    concepts = kinds.add_parser("concepts", help="docs/concepts, from one tree")
    concepts.add_argument("experiment", type=Path, nargs="?", help="sample that tree anew")
    concepts.set_defaults(draw=lambda asked: draw_concepts(asked.experiment))
    sampling = kinds.add_parser("sampling", help="docs/sampling, a tree for each policy")
    sampling.add_argument("experiment", type=Path)
    sampling.set_defaults(draw=lambda asked: draw_sampling(asked.experiment))
    ablation = kinds.add_parser("ablation", help="docs/results, of a finished ablation")
    ablation.add_argument("study", type=Path)
    ablation.set_defaults(draw=lambda asked: Outcome.of(asked.study).write(asked.study.name))
    training = kinds.add_parser("training", help="docs/results, of finished runs")
    training.add_argument("name")
    training.add_argument("runs", type=Path, nargs="+")
    training.set_defaults(draw=lambda asked: Training.of(asked.runs).write(asked.name))
    chosen = parser.parse_args()
    try:
        chosen.draw(chosen)
    except UserError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
