"""What all pictures share: colours, figures without global state, text that can be drawn."""

from __future__ import annotations

import functools
import os
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure  # type: ignore[import-not-found, unused-ignore]

#: Blue for what was trained on, orange for what was held out: apart for every kind of eye.
TRAINED, HELD_OUT, INK, FAINT = "#0072B2", "#D55E00", "#333333", "#DDDDDD"
DPI = 150
#: Lines that a legend names.
LEGEND = 12
#: Fonts to look into, where they are installed, for scripts that the default font lacks.
_MORE_FONTS = (
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "Source Han Sans SC",
    "WenQuanYi Micro Hei",
    "Microsoft YaHei",
    "PingFang SC",
    "Hiragino Sans",
    "Malgun Gothic",
    "Arial Unicode MS",
    "Nirmala UI",
    "Noto Sans Devanagari",
)
_NOT_DRAWABLE = "\N{WHITE SQUARE}"


def _figure_class() -> type[Figure]:
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "matplotlib":
            raise
        raise ModuleNotFoundError(
            'pictures need matplotlib: pip install "bpfast[plot]"', name="matplotlib"
        ) from None
    return Figure  # type: ignore[no-any-return, unused-ignore]


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of so many inches, bound to no window and to no global state."""
    return _figure_class()(figsize=(width, height), layout="constrained")


def require_drawable(path: str | os.PathLike[str]) -> None:
    """Check that matplotlib is here and knows the format of a path.

    Raises
    ------
    ModuleNotFoundError
        If matplotlib is missing.
    ValueError
        If the path's ending names no format.
    FileNotFoundError
        If its folder is not there.
    """
    _figure_class()
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # type: ignore[import-not-found, unused-ignore]

    folder = os.path.dirname(os.path.realpath(os.fspath(path)))
    if not os.path.isdir(folder):
        raise FileNotFoundError(f"there is no folder {folder!r} for the picture {os.fspath(path)!r}")
    known = sorted(FigureCanvasAgg.get_supported_filetypes())
    ending = os.path.splitext(os.fspath(path))[1].removeprefix(".").lower()
    if ending not in known:
        raise ValueError(f"{os.fspath(path)!r} names no picture format; its ending can be {', '.join(known)}")


def dress(axis: Any) -> None:
    """Grid and spines, in the background."""
    axis.grid(True, color=FAINT, linewidth=0.8)
    axis.set_axisbelow(True)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axis.spines[side].set_color("#999999")
    axis.tick_params(colors=INK, labelcolor=INK)


def write(figure: Figure, path: str | os.PathLike[str] | None) -> Figure:
    """Write a figure, if somewhere is said, and give it back."""
    if path is not None:
        figure.savefig(path, dpi=DPI)
    return figure


def name_style(size: float | str = "small") -> dict[str, Any]:
    """How to draw a name that came with the data: no mathematics in it, and every script at hand."""
    return {"parse_math": False, "fontfamily": list(_fonts()[0]), "fontsize": size}


def drawable(name: object, most: int = 24) -> str:
    """A name on one line, its middle cut out where it is long; squares for what no font here has."""
    text = " ".join(str(name).split())
    if len(text) > most:
        # In the middle: long names often differ at their end.
        tail = most // 2 - 1
        text = f"{text[: most - 1 - tail].rstrip()}…{text[-tail:].lstrip()}"
    fonts = _fonts()[1]
    return "".join(c if any(font.get_char_index(ord(c)) for font in fonts) else _NOT_DRAWABLE for c in text)


def drawable_names(names: Iterable[object], most: int = 24) -> list[str]:
    """Several names, with their places where cutting has made some of them alike."""
    names = list(names)
    cut = [drawable(name, most) for name in names]
    seen = Counter(cut)
    return [
        text if seen[text] == 1 else f"{drawable(name, most - 6)} ({place})"
        for place, (name, text) in enumerate(zip(names, cut, strict=True))
    ]


@functools.cache
def _fonts() -> tuple[tuple[str, ...], tuple[Any, ...]]:
    """The families to draw names with, the default first, and their fonts."""
    from matplotlib import rcParams  # type: ignore[import-not-found, unused-ignore]
    from matplotlib.font_manager import (  # type: ignore[import-not-found, unused-ignore]
        FontProperties,
        findfont,
        fontManager,
        get_font,
    )

    installed = {font.name for font in fontManager.ttflist}
    default = FontProperties(family=rcParams["font.family"])
    families = (default.get_name(), *(name for name in _MORE_FONTS if name in installed))
    return families, tuple(get_font(findfont(FontProperties(family=name))) for name in families)


def figure_text(value: float) -> str:
    """A number to read: four digits, thousands apart."""
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e15 else f"{value:.4g}"
