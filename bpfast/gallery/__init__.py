"""Examples around backpropagation, each a short program to run and to read.

An example is a module with a function ``main(picture)``, which prints figures, writes a picture to the given
path, and returns the figures. `python -m bpfast gallery` lists the examples.
"""

from __future__ import annotations

import difflib
import importlib
import os
from typing import Any

#: Name of an example → what it shows, in one line. The module has the same name with _ for -.
ENTRIES: dict[str, str] = {
    "learning-rate": "learning rates that are too small, right, too large and decaying",
    "activations": "all activations with their derivatives",
    "losses": "all losses and their slopes as functions of the margin or the error",
    "penalties": "the weights that each penalty leaves, how many are 0, and the accuracy",
    "saddle": "x² - y²: which optimizers stay at the saddle point, and which leave it",
    "vanishing": "twelve hidden layers of sigmoids learn nothing; six remedies and their effects",
    "batch-renorm": "batches of few classes: where BatchNorm fails but not BatchRenorm, and where both fail",
    "pretraining": "six hidden layers of sigmoids from random weights, autoencoders and Boltzmann machines",
    "gan": "a generator and a discriminator on a ring of eight Gaussians: modes covered",
    "capsule": "dynamic routing between capsules on the digits, with margin loss and checked gradients",
    "hopfield": "recall of corrupted digits, and a tour of ten cities, by minimising an energy",
    "classical": "ridge, lasso, logistic regression, SVM and AdaBoost as one layer, and in scikit-learn",
}


def require(name: str) -> None:
    """Raise an error if no example has this name; it suggests the closest one."""
    if name not in ENTRIES:
        near = difflib.get_close_matches(name.lower(), ENTRIES, n=1, cutoff=0.6)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"the gallery has no {name!r}{hint} (examples: {', '.join(ENTRIES)})")


def run(name: str, picture: str | os.PathLike[str]) -> dict[str, Any]:
    """Run an example.

    Parameters
    ----------
    name : str
        One of `ENTRIES`.
    picture : path
        File to write its picture to; the suffix selects the format.

    Returns
    -------
    dict
        The figures that it prints.

    Raises
    ------
    ValueError
        If there is no such example, or the suffix of `picture` is not that of a picture format.
    ModuleNotFoundError
        If matplotlib is missing.
    """
    require(name)
    module = importlib.import_module(f".{name.replace('-', '_')}", __name__)
    figures: dict[str, Any] = module.main(os.fspath(picture))
    return figures
