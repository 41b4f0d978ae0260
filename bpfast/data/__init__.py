"""Read tables and arrays from files, and prepare them as inputs of a network."""
