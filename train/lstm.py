"""The LSTM and GRU time loops that make training on a CPU fast, under keras.layers.LSTM and keras.layers.GRU.

Keras multiplies input and recurrent kernel in every time step, and lets automatic differentiation do so again on the
way back. Here the product with the inputs is one matrix product before the loop; the loop and its gradient are
compiled by XLA, with everything that does not depend on the next step taken out of them; and the gradient of the
recurrent kernel is one matrix product after the loop. Layers, weights and numbers stay those of Keras.

Gradients: Hochreiter and Schmidhuber 1997, with forget gates (Gers et al. 2000); Cho et al. 2014 in the form of
cuDNN (``reset_after``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import keras
import tensorflow as tf

Tensor = Any


def hoist(model: keras.Model) -> None:
    """Gives the recurrent layers of a model the fast time loops, where these compute the same; for a CPU only.

    The layers stay what they are, and so does what is saved of them. On a GPU, Keras uses cuDNN itself.
    """
    for layer in model._flatten_layers(include_self=False):
        if type(layer) in _LOOPS and _has_standard_form(layer):
            layer.inner_loop = partial(_inner_loop, layer, _LOOPS[type(layer)])
            layer.supports_jit = True


def _has_standard_form(layer: Any) -> bool:
    """Whether the layer's formulas are those of the loops below."""
    return (
        layer.activation is keras.activations.tanh
        and layer.recurrent_activation is keras.activations.sigmoid
        and layer.use_bias
        and not (layer.dropout or layer.recurrent_dropout or layer.unroll or layer.stateful)
        and getattr(layer, "reset_after", True)
    )


def _inner_loop(
    layer: Any,
    loop: Callable[[Any, Tensor, Sequence[Tensor], Tensor | None], tuple[Tensor, list[Tensor]]],
    sequences: Tensor,
    initial_state: Sequence[Tensor],
    mask: Tensor | None,
    training: bool = False,
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """In place of the layer's own: the last output ``(B, H)``, all outputs ``(B, T, H)`` and the last states."""
    mask = mask[0] if isinstance(mask, list | tuple) else mask
    if layer.go_backwards:
        sequences = tf.reverse(sequences, [1])
        mask = None if mask is None else tf.reverse(mask, [1])
    outputs, states = loop(layer.cell, sequences, initial_state, mask)
    if mask is not None and layer.return_sequences and layer.zero_output_for_mask:  # as Bidirectional wants it
        outputs = tf.where(mask[:, :, None], outputs, 0.0)
    return states[0], outputs, states


def _lstm(cell: Any, x: Tensor, states: Sequence[Tensor], mask: Tensor | None) -> tuple[Tensor, list[Tensor]]:
    inputs = tf.tensordot(x, cell.kernel.value, 1) + cell.bias
    outputs, h, c = lstm_loop(inputs, tf.convert_to_tensor(cell.recurrent_kernel), mask, *states)
    return outputs, [h, c]


def _gru(cell: Any, x: Tensor, states: Sequence[Tensor], mask: Tensor | None) -> tuple[Tensor, list[Tensor]]:
    bias, recurrent_bias = tf.unstack(tf.convert_to_tensor(cell.bias))
    inputs = tf.tensordot(x, cell.kernel.value, 1) + bias
    outputs, h = gru_loop(inputs, tf.convert_to_tensor(cell.recurrent_kernel), recurrent_bias, mask, states[0])
    return outputs, [h]


_LOOPS = {keras.layers.LSTM: _lstm, keras.layers.GRU: _gru}


def lstm_loop(inputs: Tensor, kernel: Tensor, mask: Tensor | None, h: Tensor, c: Tensor) -> tuple[Tensor, ...]:
    """Runs an LSTM over what its inputs contribute to the gates.

    Args:
        inputs: Kernel times inputs plus bias ``(B, T, 4H)``, gates in the order input, forget, cell, output.
        kernel: Recurrent kernel ``(H, 4H)``.
        mask: ``(B, T)`` bool; where it is false the state stays as it is. None for true everywhere.
        h: First hidden state ``(B, H)``.
        c: First cell state ``(B, H)``.

    Returns:
        Hidden states ``(B, T, H)``, and the last hidden and cell state ``(B, H)`` each.
    """

    @tf.custom_gradient
    def run(inputs: Tensor, kernel: Tensor, h: Tensor, c: Tensor) -> tuple[Any, Callable[..., Any]]:
        # An outer tape would ask XLA for what automatic differentiation needs of the loop.
        inputs, kernel, h, c = map(tf.stop_gradient, (inputs, kernel, h, c))
        gates, cells, hiddens = _lstm_forward(inputs, kernel, mask, h, c)

        def gradient(*upstream: Tensor) -> tuple[Tensor, ...]:
            d_inputs, d_h, d_c = _lstm_backward(kernel, mask, c, gates, cells, *upstream)
            d_kernel = _kernel_gradient(_shifted(h, hiddens), d_inputs)
            return tf.transpose(d_inputs, (1, 0, 2)), d_kernel, d_h, d_c

        return (tf.transpose(hiddens, (1, 0, 2)), hiddens[-1], cells[-1]), gradient

    found: tuple[Tensor, ...] = run(inputs, kernel, h, c)
    return found


@tf.function(jit_compile=True, autograph=False)
def _lstm_forward(
    inputs: Tensor, kernel: Tensor, mask: Tensor | None, h: Tensor, c: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gates after their activation ``(T, B, 4H)``, cell states and hidden states ``(T, B, H)``."""

    def step(t: Tensor, h: Tensor, c: Tensor) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
        i, f, g, o = tf.split(inputs[:, t] + h @ kernel, 4, axis=1)
        i, f, g, o = tf.sigmoid(i), tf.sigmoid(f), tf.tanh(g), tf.sigmoid(o)
        new_c = f * c + i * g
        new_h = o * tf.tanh(new_c)
        h, c = _where(mask, t, new_h, h), _where(mask, t, new_c, c)
        return (h, c), (tf.concat([i, f, g, o], 1), c, h)

    units = kernel.shape[0]
    _, (gates, cells, hiddens) = _scan(step, tf.shape(inputs)[1], (h, c), (4 * units, units, units))
    return gates, cells, hiddens


@tf.function(jit_compile=True, autograph=False)
def _lstm_backward(
    kernel: Tensor,
    mask: Tensor | None,
    c: Tensor,
    gates: Tensor,
    cells: Tensor,
    d_outputs: Tensor,
    d_h: Tensor,
    d_c: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of the inputs, time first, ``(T, B, 4H)`` and of the first states ``(B, H)``."""
    i, f, g, o = tf.split(gates, 4, axis=2)
    tanh_c = tf.tanh(cells)
    # What each gradient is multiplied with in every step, for all steps at once.
    by_i = g * i * (1 - i)
    by_f = _shifted(c, cells) * f * (1 - f)
    by_g = i * (1 - g * g)
    by_o = tanh_c * o * (1 - o)
    by_c = o * (1 - tanh_c * tanh_c)
    if mask is not None:  # a masked step passes gradients on as they are
        valid = tf.transpose(mask)[:, :, None]
        by_i, by_f, by_g, by_o, by_c = (tf.where(valid, by, 0.0) for by in (by_i, by_f, by_g, by_o, by_c))
        f = tf.where(valid, f, 1.0)
    transposed = tf.transpose(kernel)

    def step(t: Tensor, d_h: Tensor, d_c: Tensor) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
        d_h = d_h + d_outputs[:, t]
        d_c = d_c + d_h * by_c[t]
        d_gates = tf.concat([d_c * by_i[t], d_c * by_f[t], d_c * by_g[t], d_h * by_o[t]], 1)
        return (d_gates @ transposed + _masked(mask, t, d_h), d_c * f[t]), (d_gates,)

    (d_h, d_c), (d_gates,) = _scan(step, tf.shape(gates)[0], (d_h, d_c), (gates.shape[2],), backwards=True)
    return d_gates, d_h, d_c


def gru_loop(inputs: Tensor, kernel: Tensor, bias: Tensor, mask: Tensor | None, h: Tensor) -> tuple[Tensor, ...]:
    """Runs a GRU over what its inputs contribute to the gates.

    Args:
        inputs: Kernel times inputs plus input bias ``(B, T, 3H)``, in the order update, reset, candidate.
        kernel: Recurrent kernel ``(H, 3H)``.
        bias: Recurrent bias ``(3H,)``.
        mask: ``(B, T)`` bool; where it is false the state stays as it is. None for true everywhere.
        h: First hidden state ``(B, H)``.

    Returns:
        Hidden states ``(B, T, H)``, and the last one ``(B, H)``.
    """

    @tf.custom_gradient
    def run(inputs: Tensor, kernel: Tensor, bias: Tensor, h: Tensor) -> tuple[Any, Callable[..., Any]]:
        inputs, kernel, bias, h = map(tf.stop_gradient, (inputs, kernel, bias, h))
        gates, hiddens = _gru_forward(inputs, kernel, bias, mask, h)

        def gradient(*upstream: Tensor) -> tuple[Tensor, ...]:
            d_inputs, d_recurrent, d_h = _gru_backward(kernel, mask, h, gates, hiddens, *upstream)
            d_kernel = _kernel_gradient(_shifted(h, hiddens), d_recurrent)
            return tf.transpose(d_inputs, (1, 0, 2)), d_kernel, tf.reduce_sum(d_recurrent, (0, 1)), d_h

        return (tf.transpose(hiddens, (1, 0, 2)), hiddens[-1]), gradient

    found: tuple[Tensor, ...] = run(inputs, kernel, bias, h)
    return found


@tf.function(jit_compile=True, autograph=False)
def _gru_forward(inputs: Tensor, kernel: Tensor, bias: Tensor, mask: Tensor | None, h: Tensor) -> tuple[Tensor, Tensor]:
    """Update and reset gate, candidate, and what the reset gate is multiplied with ``(T, B, 4H)``; states."""

    def step(t: Tensor, h: Tensor) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
        from_z, from_r, from_n = tf.split(inputs[:, t], 3, axis=1)
        to_z, to_r, to_n = tf.split(h @ kernel + bias, 3, axis=1)
        z, r = tf.sigmoid(from_z + to_z), tf.sigmoid(from_r + to_r)
        n = tf.tanh(from_n + r * to_n)
        h = _where(mask, t, z * h + (1 - z) * n, h)
        return (h,), (tf.concat([z, r, n, to_n], 1), h)

    units = kernel.shape[0]
    _, (gates, hiddens) = _scan(step, tf.shape(inputs)[1], (h,), (4 * units, units))
    return gates, hiddens


@tf.function(jit_compile=True, autograph=False)
def _gru_backward(
    kernel: Tensor, mask: Tensor | None, h: Tensor, gates: Tensor, hiddens: Tensor, d_outputs: Tensor, d_h: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients, time first, of the inputs and of what the state contributes ``(T, B, 3H)``; of the first state."""
    z, r, n, to_n = tf.split(gates, 4, axis=2)
    before = _shifted(h, hiddens)
    by_z = (before - n) * z * (1 - z)
    by_n = (1 - z) * (1 - n * n)
    if mask is not None:
        valid = tf.transpose(mask)[:, :, None]
        by_z, by_n = tf.where(valid, by_z, 0.0), tf.where(valid, by_n, 0.0)
        z = tf.where(valid, z, 1.0)
    by_r = by_n * to_n * r * (1 - r)
    by_to_n = by_n * r
    transposed = tf.transpose(kernel)

    def step(t: Tensor, d_h: Tensor) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
        d_h = d_h + d_outputs[:, t]
        d_recurrent = tf.concat([d_h * by_z[t], d_h * by_r[t], d_h * by_to_n[t]], 1)
        return (d_recurrent @ transposed + d_h * z[t],), (d_recurrent, d_h)

    units = kernel.shape[0]
    widths = (3 * units, units)
    (d_h,), (d_recurrent, d_hiddens) = _scan(step, tf.shape(gates)[0], (d_h,), widths, backwards=True)
    return tf.concat([d_recurrent[:, :, : 2 * units], d_hiddens * by_n], 2), d_recurrent, d_h


def _scan(
    step: Callable[..., tuple[Sequence[Tensor], Sequence[Tensor]]],
    num_steps: Tensor,
    states: Sequence[Tensor],
    widths: Sequence[int],
    backwards: bool = False,
) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
    """Calls ``step(t, *states)`` for each t; gives the last states and, stacked ``(T, B, width)``, what it put out."""
    batch_size = states[0].shape[0]
    arrays = [tf.TensorArray(tf.float32, num_steps, element_shape=(batch_size, width)) for width in widths]

    def body(done: Tensor, *carried: Any) -> tuple[Any, ...]:
        t = num_steps - 1 - done if backwards else done
        after, put_out = step(t, *carried[: len(states)])
        written = (array.write(t, value) for array, value in zip(carried[len(states) :], put_out, strict=True))
        return (done + 1, *after, *written)

    found = tf.while_loop(lambda done, *_: done < num_steps, body, (0, *states, *arrays), maximum_iterations=num_steps)
    return found[1 : 1 + len(states)], [array.stack() for array in found[1 + len(states) :]]


def _where(mask: Tensor | None, t: Tensor, new: Tensor, old: Tensor) -> Tensor:
    return new if mask is None else tf.where(mask[:, t, None], new, old)


def _masked(mask: Tensor | None, t: Tensor, values: Tensor) -> Tensor:
    """The values where the mask is false, 0 elsewhere."""
    return 0.0 if mask is None else tf.where(mask[:, t, None], 0.0, values)


def _shifted(first: Tensor, states: Tensor) -> Tensor:
    """The states ``(T, B, H)`` before each step."""
    return tf.concat([first[None], states[:-1]], 0)


def _kernel_gradient(before: Tensor, d_recurrent: Tensor) -> Tensor:
    """One product over all steps: ``(T, B, H)`` and ``(T, B, G)`` to ``(H, G)``; XLA's own is slower."""
    rows, columns = (tf.reshape(values, (-1, values.shape[2])) for values in (before, d_recurrent))
    return tf.matmul(rows, columns, transpose_a=True)
