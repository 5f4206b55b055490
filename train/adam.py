"""Adam in one pass over the weights: that of Keras reads and writes them a dozen times, which takes a CPU longer."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

Tensor = Any


class Adam(keras.optimizers.Adam):  # type: ignore[misc]
    """:class:`keras.optimizers.Adam` (Kingma and Ba 2015, with its epsilon), by TensorFlow's kernel for it."""

    def update_step(self, gradient: Tensor, variable: tf.Variable, learning_rate: Tensor) -> None:
        """Updates a variable ``(...)`` and its moments by a gradient of its shape."""
        place = self._get_variable_index(variable)
        steps = tf.cast(self.iterations + 1, variable.dtype)
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=self._momentums[place].value.handle,
            v=self._velocities[place].value.handle,
            beta1_power=tf.cast(self.beta_1, variable.dtype) ** steps,
            beta2_power=tf.cast(self.beta_2, variable.dtype) ** steps,
            lr=tf.cast(learning_rate, variable.dtype),
            beta1=tf.cast(self.beta_1, variable.dtype),
            beta2=tf.cast(self.beta_2, variable.dtype),
            epsilon=tf.cast(self.epsilon, variable.dtype),
            grad=tf.cast(gradient, variable.dtype),
        )
