"""Versions of what is installed, against the ranges of setup.cfg."""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Iterator

from str_keras.diagnosis.finding import Finding

PACKAGE = "str_keras"
_DEVELOPERS = ("dev",)


def _version(name: str) -> str | None:
    """The version of a distribution; None if it is not installed, or damaged."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _extra_of(requirement: str) -> str | None:
    found = re.search(r"extra\s*==\s*['\"]([^'\"]+)['\"]", requirement)
    return found[1] if found else None


def _is_within(requirement: str, version: str) -> bool | None:
    """Whether a version is in a requirement's range; None if that cannot be told."""
    try:
        from packaging.requirements import InvalidRequirement, Requirement
        from packaging.version import InvalidVersion
    except ImportError:
        return None
    try:
        return Requirement(requirement).specifier.contains(version, prereleases=True)
    except (InvalidRequirement, InvalidVersion):
        return None


def _split(requirement: str) -> tuple[str, str]:
    """Name and range: "keras<3.16,>=3.15.1; extra == ..." is keras and the rest."""
    text = requirement.partition(";")[0].strip()
    name = re.match(r"[\w.-]+", text)
    return (name[0] if name else text), text


def _required(requirements: list[str]) -> Iterator[Finding]:
    for requirement in requirements:
        name, text = _split(requirement)
        version, mend = _version(name), f"pip install '{text}'"
        if version is None:
            yield Finding(
                "packages", name, "warning", f"not installed; wanted: {text}", mend
            )
        elif (within := _is_within(text, version)) is None:
            told = f"{version}; cannot be compared with {text}"
            yield Finding("packages", name, "note", told)
        elif within:
            yield Finding("packages", name, "ok", version)
        else:
            told = f"{version} is outside of the tested range: {text}"
            yield Finding("packages", name, "warning", told, mend)


def _extra(extra: str, requirements: list[str]) -> Finding:
    told, lacking, outside = [], [], []
    for requirement in requirements:
        name, text = _split(requirement)
        version = _version(name)
        told.append(f"{name} {version or 'not installed'}")
        if version is None:
            lacking.append(name)
        elif _is_within(text, version) is False:
            told[-1] += f", outside of {text.removeprefix(name)}"
            outside.append(name)
    state = "warning" if outside else "note" if lacking else "ok"
    mend = f"pip install '{PACKAGE}[{extra}]'" if lacking or outside else ""
    return Finding("extras", extra, state, "; ".join(told), mend)


def examine_packages() -> list[Finding]:
    """Compares versions with the ranges that the package's own metadata names.

    Returns:
        A finding per package that is always needed, and one per extra.
    """
    try:
        version = importlib.metadata.version(PACKAGE)
        requirements = importlib.metadata.requires(PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        told = "not installed: it runs from a folder, which does not tell the ranges"
        mend = "pip install --editable . in the checkout"
        return [Finding("packages", PACKAGE, "warning", told, mend)]
    always = [r for r in requirements if _extra_of(r) is None]
    extras: dict[str, list[str]] = {}
    for requirement in requirements:
        extra = _extra_of(requirement)
        if extra is not None and extra not in _DEVELOPERS:
            extras.setdefault(extra, []).append(requirement)
    return [
        Finding("packages", PACKAGE, "ok", version),
        *_required(always),
        *(_extra(extra, parts) for extra, parts in extras.items()),
    ]
