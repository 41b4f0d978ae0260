"""Layer-wise pretraining without labels: autoencoders and restricted Boltzmann machines."""

from .autoencoder import Autoencoder
from .boltzmann import RBM
from .pretrain import pretrain

__all__ = ["RBM", "Autoencoder", "pretrain"]
