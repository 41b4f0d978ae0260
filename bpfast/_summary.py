"""A network's layers as text."""

from __future__ import annotations

from ._state import NetworkState
from .engine.program import Program
from .specs.layers import Layer


def layer_widths(program: Program, n_layers: int) -> list[int]:
    """Return the number of columns of X and of the output of each layer with weights."""
    widths = [program.n_inputs]
    for index in range(n_layers):
        ops = [op for op in program.ops if op.layer.split(".")[0] == str(index) and not op.head]
        if any(op.kind == "dense" for op in ops):
            widths.append(ops[-1].n_out)
    return widths


def summary(state: NetworkState) -> str:
    """Return a table of the layers."""
    rows = [("layer", "output", "", "parameters")]
    for index, layer in enumerate(state.layers):
        rows += layer_rows(state, layer, str(index), 0)
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = [
        f"{row[0]:<{widths[0]}}  {row[1]:>{widths[1]}}  {row[2]:<{widths[2]}}  {row[3]:>{widths[3]}}"
        for row in rows
    ]
    total = (
        f"{state.program.n_inputs} inputs, {state.program.n_trained:,} parameters "
        f"({state.flat.nbytes / 1024:,.1f} KiB {state.dtype}), loss {state.loss.name}"
    )
    return "\n".join([*lines, total])


def layer_rows(state: NetworkState, layer: Layer, name: str, depth: int) -> list[tuple[str, str, str, str]]:
    """Return the rows of a layer and of the layers inside it."""
    inner = getattr(layer, "layers", ())
    children = tuple(f"{name}.{index}." for index in range(len(inner)))
    below = [p for p in state.program.parameters if p.trained and p.name.startswith(f"{name}.")]
    own = [p for p in below if not p.name.startswith(children)]
    ops = [op for op in state.program.ops if f"{op.layer}.".startswith(f"{name}.")]
    # An auxiliary head is a side branch: the layer passes its input on.
    width = ops[-1].n_in if ops[-1].head else ops[-1].n_out
    words = [layer.text] if layer.text else []
    if any(op.layer == f"{name}.skip" for op in ops):
        words.append("projection")
    scales = {state.lr_scales.get(p.name, 1.0) for p in own}
    if scales and scales != {1.0}:
        words.append("frozen" if scales == {0.0} else f"rate × {min(scales):g}")
    label = "  " * depth + f"{name} {layer.name}"
    rows = [(label, str(width), ", ".join(words), f"{sum(p.size for p in own):,}")]
    for index, child in enumerate(inner):
        rows += layer_rows(state, child, f"{name}.{index}", depth + 1)
    return rows
