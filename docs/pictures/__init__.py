"""The pictures of the documentation, as SVG; `python -m docs.pictures` draws them again.

Those of docs/concepts need nothing but the example tree that lies there and the library's own
results, so a test compares them with the committed files.
"""

from __future__ import annotations

from collections.abc import Callable

from docs.pictures.estimators import estimators_picture
from docs.pictures.example import Example
from docs.pictures.packing import cutting_picture, mask_picture, packing_picture
from docs.pictures.pipeline import pipeline_picture
from docs.pictures.trees import forest_picture, growth_picture

CONCEPTS: dict[str, Callable[[Example], str]] = {
    "pipeline": pipeline_picture,
    "forest": forest_picture,
    "growth": growth_picture,
    "estimators": estimators_picture,
    "packing": packing_picture,
    "mask": mask_picture,
    "cutting": cutting_picture,
}
