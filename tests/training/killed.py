"""A run to be killed by a test: `python killed.py FILE THREADS OUT` runs or resumes it and writes the result.

With "-" as FILE it runs without checkpoints.
"""

import sys

import numpy as np

import bpfast as bp


def train(path, threads, out):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(1500, 40)).astype("f4"), rng.integers(0, 4, 1500)
    net = bp.Network(
        [bp.Dense(160, "relu"), bp.BatchNorm(), bp.Dropout(0.2), bp.Dense(160, "tanh"), bp.Dense(4)],
        n_inputs=40,
        loss="cross_entropy",
        threads=threads,
        seed=5,
    )
    callbacks = [bp.EarlyStopping(patience=6)]
    if path is not None:
        callbacks.append(bp.Checkpoint(path, batches=20, keep=2, best=True))
    history = net.fit(
        X,
        y,
        epochs=14,
        batch_size=16,
        optimizer=bp.Adam(bp.ReduceOnPlateau(0.003, patience=3), clip_norm=2.0),
        penalty=bp.L2(1e-4),
        validation=(X[:300], y[:300]),
        weight_noise=0.01,
        callbacks=callbacks,
        resume=path,
    )
    net.save(out)
    columns = {name: values for name, values in history.columns.items() if name != "seconds"}
    with open(out, "ab") as file:
        file.write(
            repr((columns, net._state.optimizer_state.steps, net._state.optimizer_state.clock)).encode()
        )
        file.write(net._state.optimizer_state.arrays.tobytes())


if __name__ == "__main__":
    path, threads, out = sys.argv[1:]
    train(None if path == "-" else path, int(threads), out)
