"""Runs a SavedModel in a process that has TensorFlow only: no Keras, no str_keras.

Usage: python -P _reload.py DIRECTORY INPUTS.npz OUTPUTS.npz

INPUTS.npz has one array a signature; OUTPUTS.npz gets that signature's "logits".
"""

import sys

import numpy as np
import tensorflow as tf

_CHUNK = 32


def main(directory: str, inputs: str, outputs: str) -> None:
    """Loads, runs and writes."""
    # Kept in a name: the functions do not hold the object that they read.
    loaded = tf.saved_model.load(directory)
    results = {}
    with np.load(inputs) as arrays, tf.device("CPU:0"):
        for name in arrays.files:
            run, values = loaded.signatures[name], arrays[name]
            argument = next(iter(run.structured_input_signature[1]))
            # One alone and then the rest by 32: the batch must be free.
            rows = [slice(0, 1)]
            rows += [slice(i, i + _CHUNK) for i in range(1, len(values), _CHUNK)]
            results[name] = np.concatenate(
                [run(**{argument: tf.constant(values[r])})["logits"] for r in rows]
            )
    if "str_keras" in sys.modules:
        raise RuntimeError("the SavedModel was to be loaded without str_keras")
    np.savez(outputs, **results)


if __name__ == "__main__":
    main(*sys.argv[1:])
