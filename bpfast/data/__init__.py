"""Tables and arrays from files, and how a model wants them."""
