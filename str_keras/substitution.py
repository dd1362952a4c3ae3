"""The write-through scope: reads of a kernel give its sparse kernel."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import keras

from str_keras.internals import assign_directly


class Substitution(keras.StatelessScope):
    """Reads of the mapped variables give tensors; all other reads and writes pass.

    A bare `StatelessScope` would also swallow the updates of batch-norm statistics,
    dropout seeds and recurrent states, and hide an outer scope (that of the JAX
    trainer). It is thread-local, as Keras' scopes are. Losses that layers add inside
    are in `losses` after the block: the caller adds them to itself.

    Args:
        mapping: Pairs of `keras.Variable` and the tensor to be read in its place, of
            the variable's shape and dtype.
    """

    def __init__(self, mapping: Iterable[tuple[keras.Variable, Any]]):
        super().__init__(collect_losses=True, initialize_variables=False)
        # Not through the constructor: it casts to `variable.dtype`, which is float16
        # under an autocast scope even where a layer inside reads float32.
        self.state_mapping = {id(variable): value for variable, value in mapping}
        self.original_scope: keras.StatelessScope | None = None

    def get_current_value(self, variable: keras.Variable) -> Any:
        """Returns the mapped tensor, else what an outer scope holds, else None."""
        value = self.state_mapping.get(id(variable))
        if value is None and self.original_scope is not None:
            value = self.original_scope.get_current_value(variable)
        return value

    def add_update(self, update: tuple[keras.Variable, Any]) -> None:
        """Passes an assignment on.

        Raises:
            RuntimeError: if the variable is one of the mapped ones: its raw value
                would be lost.
        """
        variable, value = update
        if id(variable) in self.state_mapping:
            raise RuntimeError(
                "A kernel cannot be assigned while its sparse kernel stands in for it. "
                f"Received: variable={variable.path}"
            )
        if self.original_scope is not None:
            self.original_scope.add_update(update)
        else:
            assign_directly(variable, value)
