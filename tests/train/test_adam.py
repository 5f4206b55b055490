"""The optimiser in one pass is that of Keras."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf

from framecache.train.adam import Adam


def test_steps_are_those_of_keras() -> None:
    rng = np.random.default_rng(0)
    start = rng.normal(size=(5, 3)).astype(np.float32)
    ours, theirs = keras.Variable(start), keras.Variable(start)
    optimizers = [Adam(), keras.optimizers.Adam()]
    for optimizer, variable in zip(optimizers, (ours, theirs), strict=True):
        optimizer.build([variable])
        optimizer.learning_rate.assign(0.05)
    for _ in range(7):
        gradient = tf.constant(rng.normal(size=(5, 3)).astype(np.float32))
        for optimizer in optimizers:
            optimizer.apply([gradient])
    assert np.abs(ours.numpy() - start).max() > 0.1
    np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=1e-5, atol=1e-6)
