"""What `make_sparse_ready` changed, layer by layer, and what stands in the way."""

from __future__ import annotations

import dataclasses
from typing import Any

from str_keras.tables import text_table


@dataclasses.dataclass(frozen=True)
class Change:
    """A layer that was rewritten.

    Args:
        path: Names from the model down to it.
        kind: What it is.
        what: What was done.
        exact: Whether outputs stay the same.
    """

    path: str
    kind: str
    what: str
    exact: bool = True


@dataclasses.dataclass(frozen=True)
class Obstacle:
    """A layer that keeps sparse kernels off, or that no rewrite mends.

    Args:
        path: Names from the model down to it; "" of the model as a whole.
        kind: What it is.
        reason: Which rule it breaks.
        mend: What to do about it.
    """

    path: str
    kind: str
    reason: str
    mend: str


@dataclasses.dataclass
class Notes:
    """Changes as they are made."""

    changes: list[Change] = dataclasses.field(default_factory=list)

    def add(self, path: str, kind: str, what: str, exact: bool = True) -> None:
        """Notes a change, once."""
        change = Change(path, kind, what, exact)
        if change not in self.changes:
            self.changes.append(change)


@dataclasses.dataclass(frozen=True)
class ReadyReport:
    """What `sparse_ready_report` found; `print` it, or take `to_dict`.

    Args:
        name: The model's.
        ready: Whether the rewritten model has the form that sparse kernels want. They
            also want more than 2/3 of zeros, and a file with its zeros encoded:
            `stk.export.check_sparse` tells of a file.
        exact: Whether outputs stay the same.
        turned: Whether images are turned inside.
        changes: What was rewritten.
        obstacles: What stands in the way; empty if `ready`.
        remarks: Layers that could be better and stay, with the reason.
    """

    name: str
    ready: bool
    exact: bool
    turned: bool
    changes: tuple[Change, ...]
    obstacles: tuple[Obstacle, ...]
    remarks: tuple[Obstacle, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain Python types."""
        return dataclasses.asdict(self)

    @property
    def summary(self) -> str:
        """One line."""
        if self.ready:
            return f"{self.name} has the form for sparse kernels, {self._outputs()}"
        first = self.obstacles[0]
        more = len(self.obstacles) - 1
        others = f" and {more} more" if more else ""
        where = f"{first.path}: " if first.path else ""
        told = f"{self.name} does not have the form for sparse kernels"
        return f"{told}: {where}{first.reason}{others}"

    def _outputs(self) -> str:
        if not self.changes:
            return "as it is"
        if self.exact:
            return "outputs stay the same"
        return "outputs CHANGE: fine-tune the weights"

    def __str__(self) -> str:
        parts = [self.summary]
        if self.changes:
            rows = [
                [c.path, c.kind, c.what if c.exact else f"{c.what} (NOT the same)"]
                for c in self.changes
            ]
            parts.append(text_table(["rewritten", "kind", "how"], rows, (0, 1, 2)))
        for heading, found in (
            ("stands in the way", self.obstacles),
            ("stays", self.remarks),
        ):
            if found:
                rows = [[o.path or "-", o.kind, o.reason, o.mend] for o in found]
                columns = [heading, "kind", "why", "mend"]
                parts.append(text_table(columns, rows, (0, 1, 2, 3)))
        return "\n\n".join(parts)
