"""Draws the pictures again, from the root of the repository.

    python -m docs.pictures concepts                   # docs/concepts/*.svg, from example.json
    python -m docs.pictures concepts runs/quickstart   # samples example.json anew before
    python -m docs.pictures sampling runs/quickstart   # docs/sampling/*.svg
    python -m docs.pictures results runs/ablations/main-small   # docs/results, and its page

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


def draw_results(experiment: Path) -> None:
    """Take over what a finished ablation came to."""
    Outcome.of(experiment).write(experiment.name)


def main() -> None:
    """Read the command line and draw."""
    parser = argparse.ArgumentParser(prog="python -m docs.pictures")
    kinds = parser.add_subparsers(required=True)
    concepts = kinds.add_parser("concepts", help="docs/concepts, from one tree")
    concepts.add_argument("experiment", type=Path, nargs="?", help="sample that tree anew")
    concepts.set_defaults(draw=draw_concepts)
    sampling = kinds.add_parser("sampling", help="docs/sampling, a tree for each policy")
    sampling.add_argument("experiment", type=Path)
    sampling.set_defaults(draw=draw_sampling)
    results = kinds.add_parser("results", help="docs/results, of a finished ablation")
    results.add_argument("experiment", type=Path, metavar="ablation")
    results.set_defaults(draw=draw_results)
    chosen = parser.parse_args()
    try:
        chosen.draw(chosen.experiment)
    except UserError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
