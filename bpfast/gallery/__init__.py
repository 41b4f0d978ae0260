"""The gallery: what grew out of backpropagation, each as one short program to run and to read.

An entry is a module with a function ``main(picture)``, which prints its figures, writes a picture
to the path that it is given, and returns the figures. `python -m bpfast gallery` lists them.
"""

from __future__ import annotations

import importlib
import os
from typing import Any

#: The name of an entry → what it shows, in a line. The module's name has _ for -.
ENTRIES: dict[str, str] = {
    "capsule": "dynamic routing between capsules on the digits, with margin loss; gradients checked",
    "gan": "a generator against a discriminator on a ring of eight Gaussians: modes covered",
    "pretraining": "six hidden layers of sigmoids, from random weights, autoencoders and Boltzmann machines",
}


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
    """
    if name not in ENTRIES:
        raise ValueError(f"the gallery has no {name!r} (it has {', '.join(ENTRIES)})")
    module = importlib.import_module(f".{name.replace('-', '_')}", __name__)
    figures: dict[str, Any] = module.main(os.fspath(picture))
    return figures
