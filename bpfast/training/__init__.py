"""Training: the loop, its callbacks, history, metrics, checkpoints and L-BFGS."""
