"""Style shared by all plots: colours, figures without global state, labels that fonts can draw."""

from __future__ import annotations

import functools
import os
from collections import Counter
from collections.abc import Iterable
from typing import Any, TypeAlias

#: matplotlib.figure.Figure and matplotlib.axes.Axes, which importing bpfast must not import.
Figure: TypeAlias = Any
Axes: TypeAlias = Any

#: Blue for training rows, orange for held-out rows: distinguishable with colour blindness.
TRAINED, HELD_OUT, INK, FAINT = "#0072B2", "#D55E00", "#333333", "#DDDDDD"
DPI = 150
#: Maximum number of lines in a legend.
LEGEND = 12
#: Fonts to fall back to, if installed, for scripts that the default font lacks.
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


def _figure_class() -> Any:
    try:
        from matplotlib.figure import Figure  # type: ignore[import-not-found, unused-ignore]
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "matplotlib":
            raise
        raise ModuleNotFoundError(
            'plots require matplotlib: pip install "bpfast[plot]"', name="matplotlib"
        ) from None
    return Figure


def new_figure(width: float, height: float) -> Figure:
    """Create an empty figure, not registered with pyplot; width and height are in inches."""
    return _figure_class()(figsize=(width, height), layout="constrained")


def require_drawable(path: str | os.PathLike[str]) -> None:
    """Check that matplotlib is installed and supports the format of an image file.

    Raises
    ------
    ModuleNotFoundError
        If matplotlib is not installed.
    ValueError
        If the extension of the path is not a supported format.
    FileNotFoundError
        If the directory of the path does not exist.
    """
    _figure_class()
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # type: ignore[import-not-found, unused-ignore]

    folder = os.path.dirname(os.path.realpath(os.fspath(path)))
    if not os.path.isdir(folder):
        raise FileNotFoundError(f"cannot write {os.fspath(path)!r}: there is no directory {folder!r}")
    known = sorted(FigureCanvasAgg.get_supported_filetypes())
    extension = os.path.splitext(os.fspath(path))[1].removeprefix(".").lower()
    if extension not in known:
        raise ValueError(
            f"{os.fspath(path)!r} must have the extension of a supported image format: {', '.join(known)}"
        )


def dress(axis: Axes) -> None:
    """Style the grid, the spines and the ticks of an axis."""
    axis.grid(True, color=FAINT, linewidth=0.8)
    axis.set_axisbelow(True)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axis.spines[side].set_color("#999999")
    axis.tick_params(colors=INK, labelcolor=INK)


def write(figure: Figure, path: str | os.PathLike[str] | None) -> Figure:
    """Write a figure to a file, if a path is given, and return it."""
    if path is not None:
        figure.savefig(path, dpi=DPI)
    return figure


def name_style(size: float | str = "small") -> dict[str, Any]:
    """Text properties for a name from the data: no mathematical notation, all available fonts."""
    return {"parse_math": False, "fontfamily": list(_fonts()[0]), "fontsize": size}


def drawable(name: object, most: int = 24) -> str:
    """A name on one line, shortened in the middle; squares replace characters that no font has."""
    text = " ".join(str(name).split())
    if len(text) > most:
        # Long names often differ at their end.
        tail = most // 2 - 1
        text = f"{text[: most - 1 - tail].rstrip()}…{text[-tail:].lstrip()}"
    fonts = _fonts()[1]
    return "".join(c if any(font.get_char_index(ord(c)) for font in fonts) else _NOT_DRAWABLE for c in text)


def drawable_names(names: Iterable[object], most: int = 24) -> list[str]:
    """Names as in `drawable`, with their index if shortening makes some of them equal."""
    names = list(names)
    cut = [drawable(name, most) for name in names]
    seen = Counter(cut)
    return [
        text if seen[text] == 1 else f"{drawable(name, most - 6)} ({index})"
        for index, (name, text) in enumerate(zip(names, cut, strict=True))
    ]


@functools.cache
def _fonts() -> tuple[tuple[str, ...], tuple[Any, ...]]:
    """Font families for names, the default first, and their fonts."""
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
    """Format a number with four significant digits and thousands separators."""
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e15 else f"{value:.4g}"
