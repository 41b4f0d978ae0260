"""Specifications: frozen dataclasses of hyperparameters without arrays, one table per family."""
