"""Specifications: frozen dataclasses of hyperparameters, one table a family, without arrays."""
