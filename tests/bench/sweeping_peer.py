"""One experiment as it is written without framecache: arrays loaded with numpy, Keras's fit, the model saved.

Model, epochs, batch size, optimiser and early stopping are those of a run with the default settings.
"""

from __future__ import annotations

import sys
from pathlib import Path

import keras
import numpy as np


def main(path: str, model: str, units: int, learning_rate: float) -> None:
    """Prints the number of epochs."""
    with np.load(path) as arrays:
        data = {name: arrays[name].astype(np.float32) if name.endswith("_x") else arrays[name] for name in arrays}
    keras.utils.set_random_seed(0)
    train = data["train_x"].reshape(-1, data["train_x"].shape[-1])
    recurrent = keras.layers.LSTM(units) if model == "lstm" else keras.layers.GRU(units)
    network = keras.Sequential(
        [
            keras.Input(data["train_x"].shape[1:]),
            keras.layers.Normalization(mean=train.mean(0), variance=train.var(0)),
            recurrent,
            keras.layers.Dropout(0.5),
            keras.layers.Dense(int(data["train_y"].max()) + 1),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    network.compile(keras.optimizers.Adam(learning_rate), loss, metrics=["accuracy"])
    stop = keras.callbacks.EarlyStopping(min_delta=0.005, patience=15, restore_best_weights=True)
    history = network.fit(
        data["train_x"],
        data["train_y"],
        batch_size=16,
        epochs=100,
        validation_data=(data["val_x"], data["val_y"]),
        callbacks=[stop, keras.callbacks.CSVLogger(str(Path(path).with_name("history.csv")))],
        verbose=0,
    )
    network.evaluate(data["test_x"], data["test_y"], verbose=0)
    network.save(Path(path).with_name("peer.keras"))
    print(len(history.epoch))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4]))
