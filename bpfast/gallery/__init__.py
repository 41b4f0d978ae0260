"""The gallery: what grew out of backpropagation, each as one short program to run and to read.

An entry is a module with a function ``main(picture)``, which prints its figures, writes a picture
to the path that it is given, and returns the figures. `python -m bpfast gallery` lists them.
"""

from __future__ import annotations

import difflib
import importlib
import os
from typing import Any

#: The name of an entry → what it shows, in a line. The module's name has _ for -.
ENTRIES: dict[str, str] = {
    "learning-rate": "too small, right, too large, falling: how far each gets",
    "activations": "all of them, each with its derivative",
    "losses": "all of them, against the margin or the error, with their slopes",
    "penalties": "the weights that each of them leaves, how many are 0, and the accuracy",
    "saddle": "x² - y²: who is held at the saddle, and who leaves it",
    "vanishing": "twelve hidden layers of sigmoids learn nothing; six remedies, and what each does",
    "batch-renorm": "batches of two and two of a class: BatchNorm fails, BatchRenorm does not; its limit too",
    "pretraining": "six hidden layers of sigmoids, from random weights, autoencoders and Boltzmann machines",
    "gan": "a generator against a discriminator on a ring of eight Gaussians: modes covered",
    "capsule": "dynamic routing between capsules on the digits, with margin loss; gradients checked",
    "hopfield": "recall of corrupted digits, and a tour of ten cities, by a falling energy",
    "classical": "ridge, lasso, logistic regression, SVM and AdaBoost as one layer, beside scikit-learn's",
}


def require(name: str) -> None:
    """Refuse a name that no entry has, with the nearest that one has."""
    if name not in ENTRIES:
        near = difflib.get_close_matches(name.lower(), ENTRIES, n=1, cutoff=0.4)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"the gallery has no {name!r}{hint} (it has {', '.join(ENTRIES)})")


def run(name: str, picture: str | os.PathLike[str]) -> dict[str, Any]:
    """Run an entry.

    Parameters
    ----------
    name : str
        One of `ENTRIES`.
    picture : path
        Where to write its picture.

    Returns
    -------
    dict
        The figures that it has printed.

    Raises
    ------
    ValueError
        If there is no such entry, or the picture's ending names no format.
    ModuleNotFoundError
        If matplotlib is missing.
    """
    require(name)
    module = importlib.import_module(f".{name.replace('-', '_')}", __name__)
    figures: dict[str, Any] = module.main(os.fspath(picture))
    return figures
