"""Reductions in the extraction pass: a feature map → the features of one frame, in the CNN's own graph."""

from __future__ import annotations

import math
from typing import Any

from framecache.cache.reductions import GEM_EPSILON, Reduction, random_matrix

Tensor = Any  # a TensorFlow tensor; its library is only imported where it computes


def reduce_maps(reduction: Reduction, maps: Tensor) -> Tensor:
    """Reduces feature maps ``(B, h, w, C)`` to ``(B, *feature_shape)``, in the maps' dtype."""
    import tensorflow as tf

    pooled = _pool(reduction, maps)
    if not reduction.dim:
        return pooled
    length = math.prod(reduction.pooled_shape(tuple(maps.shape[1:])))
    matrix = tf.constant(random_matrix(length, reduction.dim, reduction.seed), maps.dtype)
    return tf.reshape(pooled, (-1, length)) @ matrix


def _pool(reduction: Reduction, maps: Tensor) -> Tensor:
    import tensorflow as tf

    if reduction.pool == "grid":
        return maps
    if reduction.pool == "gap":
        return tf.reduce_mean(maps, axis=(1, 2))
    if reduction.pool == "gmp":
        return tf.reduce_max(maps, axis=(1, 2))
    if reduction.pool == "gem":
        raised = tf.pow(tf.maximum(maps, GEM_EPSILON), reduction.p)
        return tf.pow(tf.reduce_mean(raised, axis=(1, 2)), 1 / reduction.p)
    return tf.concat([tf.reduce_mean(maps, axis=(1, 2)), tf.reduce_max(maps, axis=(1, 2))], axis=-1)
