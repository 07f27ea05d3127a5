"""How the report writes numbers and texts: thousands, percentages, durations, hostile text.

Knows typography only. Must not know what a number means or where it stands on the page.
Its results are plain text, still to be escaped by the template.
"""

from __future__ import annotations

import math

MISSING = "–"
# Control characters shown by their symbols; line breaks and tabs stay what they are.
CONTROLS = {code: 0x2400 + code for code in range(32) if chr(code) not in "\n\t"} | {127: 0x2421}
SNIPPET = 90


def finite(value: float | None) -> float | None:
    """The value, or None where there is no number to show."""
    return value if value is not None and math.isfinite(value) else None


def visible(text: str) -> str:
    """Text fit for a page: nothing that UTF-8 cannot hold, control characters as symbols."""
    return text.encode("utf-8", "replace").decode().translate(CONTROLS)


def snippet(text: str) -> str:
    """The beginning of a text, on one line."""
    line = " ".join(visible(text[: 4 * SNIPPET]).split())
    return line if len(line) <= SNIPPET else f"{line[:SNIPPET]}…"


def percent(value: float | None) -> str:
    """A fraction as a percentage with one decimal."""
    return MISSING if value is None or finite(value) is None else f"{100 * value:.1f} %"


def signed(value: float | None, decimals: int = 2) -> str:
    """A number with its sign, the minus as wide as the plus."""
    if value is None or finite(value) is None:
        return MISSING
    rounded = f"{value:+.{decimals}f}"
    return rounded.replace("-", "−") if float(rounded) else rounded[1:]


def number(value: float | None) -> str:
    """A number with thousands separated, and no more digits than mean something."""
    if value is None or finite(value) is None:
        return MISSING
    if float(value).is_integer() or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def duration(seconds: float | None) -> str:
    """Seconds in the two units that fit."""
    if seconds is None or finite(seconds) is None:
        return MISSING
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min"
