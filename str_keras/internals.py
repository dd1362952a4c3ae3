"""What Keras 3.15 does not export and the core needs, each with why.

Beside it only the optimizers use private names: hooks that Keras' own subclasses use.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import keras
from keras.src.backend.common.stateless_scope import get_stateless_scope
from keras.src.backend.common.variables import AutocastScope
from keras.src.models.functional import Functional
from keras.src.ops.numpy import Flip


def full_precision() -> Any:
    """A scope in which variables read in their own dtype.

    Under mixed_float16 a read inside `call` is float16; the sum in the threshold's
    gradient then overflows (-inf where float32 gives -3,031,754).
    """
    return AutocastScope(None)


def current_scope() -> keras.StatelessScope | None:
    """The innermost `StatelessScope` of this thread."""
    return get_stateless_scope()


def assign_directly(variable: keras.Variable, value: Any) -> None:
    """Assigns as outside of any scope: `assign` would be caught by ours again."""
    variable._direct_assign(value)


def adopt_signature(wrapper: keras.Layer, layer: keras.Layer) -> None:
    """Lets Keras pass to `wrapper` what it would pass to `layer`.

    `Layer.__call__` decides by the signature of `call` which of training, mask,
    initial_state, query and value arrive; `build` is bound by its signature.
    """
    for name in (
        "_call_signature",
        "call_signature_parameters",
        "_call_has_training_arg",
        "_call_has_mask_arg",
        "_call_has_context_arg",
    ):
        setattr(wrapper, name, getattr(layer, name))
    wrapper.__dict__["build"].__signature__ = inspect.signature(layer.build)


def first_argument(operation: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
    """What an operation was called on: by name it need not come first."""
    if args:
        return args[0]
    names = getattr(operation, "call_signature_parameters", [])
    return next(kwargs[name] for name in (*names, *kwargs) if name in kwargs)


def arguments(operation: Any, args: tuple, kwargs: dict[str, Any]) -> dict[str, Any]:
    """What an operation was called on, by name."""
    names = getattr(operation, "call_signature_parameters", [])
    return dict(zip(names, args, strict=False)) | kwargs


def sublayers(layer: keras.Layer) -> list[keras.Layer]:
    """The layers that a layer or model holds, of whatever kind it is."""
    return list(layer._flatten_layers(include_self=False, recursive=False))


def all_sublayers(layer: keras.Layer) -> list[keras.Layer]:
    """The layers that a layer or model holds, at any depth."""
    return list(layer._flatten_layers(include_self=False, recursive=True))


def calls_of(layer: keras.Layer) -> list[Any]:
    """The symbolic calls of a layer, one a use: `layer.input` raises for two.

    Each has `operation` (the layer), `input_tensors`, and `parent_nodes`: the calls
    that gave those.
    """
    return list(layer._inbound_nodes)


def calls_behind(call: Any) -> list[Any]:
    """The calls that read an output of a call."""
    return [c for c in call.operation._outbound_nodes if call in c.parent_nodes]


def functional_graph(model: keras.Model) -> keras.Model | None:
    """The functional graph of a built Functional or Sequential model, else None.

    A `SparseModel` has that of the model inside.
    """
    if hasattr(model, "thresholded"):
        model = model.model  # type: ignore[attr-defined]
    if isinstance(model, keras.Sequential):
        return model._functional
    return model if hasattr(model, "_run_through_graph") else None


def calls_its_graph(model: keras.Model) -> bool:
    """Whether a call of a model is a run of its graph: no subclass with its own."""
    return type(model).call in (Functional.call, keras.Sequential.call)


def tells_own_config(model: keras.Model) -> bool:
    """Whether a functional model's class has a configuration of its own.

    Keras' `clone_model` means to ask it, and copies layer by layer nevertheless, which
    fails for layers of KerasHub that only their backbone can make.
    """
    default = (Functional.get_config, keras.Sequential.get_config)
    return type(model).get_config not in default


def operation_name(operation: Any) -> str:
    """Name of the class of an operation of `keras.ops`; "" of a layer, or another's.

    `keras.ops` exports functions; what they leave in a graph has private classes.
    """
    kind = type(operation)
    return kind.__name__ if kind.__module__.startswith("keras.src.ops.") else ""


def flip_kind() -> type:
    """The class of the operation that `keras.ops.flip` leaves in a graph.

    The function itself cannot be told the operation's name, and the one that it takes
    may be in use.
    """
    return Flip


def run_graph(model: keras.Model, inputs: Any, call: Callable) -> Any:
    """Runs a functional graph with `call(operation, *args, **kwargs)` at each node."""
    return model._run_through_graph(inputs, call_fn=call)  # type: ignore


def read_state_before_step(model: keras.Model) -> None:
    """Makes a callback's assignments to variables count for the next step.

    Keras' JAX trainer carries the weights outside of the variables during an epoch; a
    synchronized state is read anew.
    """
    if keras.backend.backend() == "jax":
        model.jax_state_sync()  # type: ignore[attr-defined]


def read_array(variable: keras.Variable) -> Any:
    """The values of a variable as a NumPy array.

    `ops.convert_to_numpy` asks a variable of TensorFlow for them by a protocol that
    takes five times as long: of many small ones at every step that is seen.
    """
    if keras.backend.backend() == "tensorflow" and current_scope() is None:
        return variable.value.numpy()
    ops: Any = keras.ops  # untyped there
    return ops.convert_to_numpy(variable)


def iterations(model: keras.Model) -> int:
    """Optimizer steps that a model has taken; of replicas too, and past skipped ones.

    A LossScaleOptimizer goes on counting where the one inside skips a step.
    """
    ops: Any = keras.ops  # untyped there
    optimizer: Any = model.optimizer
    counter = getattr(optimizer, "inner_optimizer", optimizer).iterations
    return int(ops.convert_to_numpy(counter))


def batches_seen(model: keras.Model) -> int:
    """Batches that a model has trained on: several a step where gradients accumulate.

    Keras counts those, and gives out what they divide to.
    """
    ops: Any = keras.ops  # untyped there
    optimizer: Any = model.optimizer
    counter = getattr(optimizer, "inner_optimizer", optimizer)._iterations
    return int(ops.convert_to_numpy(counter))


def mend_fit_of_workers() -> None:
    """Lets `fit` and `evaluate` run under MultiWorkerMirroredStrategy.

    Keras 3.15.1 fails there in two places of its TensorFlow trainer, both of which
    reduce what cannot be reduced. Other strategies go the way they went.

    1. `TensorFlowTrainer._maybe_symbolic_build` builds the model by the mean of the
       first batch over the replicas, `strategy.reduce("MEAN", batch, axis=None)`. A
       worker has values of its own replicas alone, in a PerReplica, and TensorFlow
       raises "Attempt to convert a value (PerReplica) with an unsupported type to a
       Tensor". Of the batch only shape and dtype are read, so the first of
       `strategy.experimental_local_results` does, under any strategy.
    2. `reduce_per_replica` takes the mean of each step's loss and metrics by
       `strategy.reduce("MEAN", value, axis=0)`. They are scalars: "Invalid reduction
       dimension 0 for input with 0 dimensions". With `axis=None` it is the mean over
       the replicas of all workers, as under the other strategies.
    """
    import tensorflow as tf
    from keras.src.backend.tensorflow import trainer

    if hasattr(trainer.reduce_per_replica, "mended"):
        return
    plain_build = trainer.TensorFlowTrainer._maybe_symbolic_build
    plain_reduce = trainer.reduce_per_replica

    def has_workers(strategy: Any) -> bool:
        kind = tf.distribute.MultiWorkerMirroredStrategy
        return isinstance(strategy, kind) and strategy.extended._in_multi_worker_mode()

    def build(self: Any, iterator: Any = None, data_batch: Any = None) -> None:
        strategy = self._distribute_strategy
        if iterator is not None and has_workers(strategy):
            _, _, batches = next(iter(iterator))
            data_batch = keras.tree.map_structure(
                lambda value: strategy.experimental_local_results(value)[0],
                next(batches),
            )
            iterator = None
        plain_build(self, iterator, data_batch)

    def reduce(values: Any, strategy: Any, reduction: str) -> Any:
        if reduction in ("auto", "mean") and has_workers(strategy):
            return keras.tree.map_structure(
                lambda value: strategy.reduce("MEAN", value, axis=None), values
            )
        return plain_reduce(values, strategy, reduction)

    reduce.mended = True  # type: ignore[attr-defined]
    trainer.TensorFlowTrainer._maybe_symbolic_build = build
    trainer.reduce_per_replica = reduce
