"""The verdicts of check_sparse are what the runtimes do."""

import pathlib

import numpy as np
import pytest
import sparse_cases
import sparse_models

from str_keras.export import runtimes

pytestmark = pytest.mark.runtimes
HAS_AVX = " avx " in pathlib.Path("/proc/cpuinfo").read_text()
TARGETS = {
    "native": "x86_avx" if HAS_AVX else "x86_no_avx",
    "x86_no_avx": "x86_no_avx",
    "arm64": "arm",
    "wasm": "wasm",
}
# In parts, which processes of the test run share.
USUAL = [c for c in sparse_cases.CASES if sparse_cases.input_shape(c) == (48, 48, 3)]
OTHERS = [c for c in sparse_cases.CASES if c not in USUAL]
PARTS = {
    **{f"usual {i}": (USUAL[i::3], tuple(TARGETS)) for i in range(3)},
    # A start of an emulator for each shape of input: one emulator will do.
    "other inputs": (OTHERS, ("native", "x86_no_avx")),
}


def run(name, cases, directory, twins=False):
    """By case what came of its file, or of its dense twin."""
    groups = {}
    for case in cases:
        groups.setdefault(sparse_cases.input_shape(case), []).append(case)
    found = {}
    for members in groups.values():
        paths = [directory / f"{case}.tflite" for case in members]
        for case, path in zip(members, paths, strict=True):
            content = sparse_cases.content(case)
            twin = runtimes.dense_twin(content) if twins else None
            path.write_bytes(twin or content)  # None: it is stored dense
        # Two samples: what is wrong may be right for one.
        samples = sparse_models.samples(sparse_cases.model_of(members[0]))
        outcomes = runtimes.run(name, paths, samples, profile=not twins)
        found |= dict(zip(members, outcomes, strict=True))
    return found


def right_outputs(cases, directory):
    """Of dense twins, which equal Keras' where they are of a model."""
    found = run("native", cases, directory, twins=True)
    for case in sparse_cases.MODELS.keys() & found.keys():
        model = sparse_cases.model(case)
        keras = np.asarray(model(sparse_models.samples(model), training=False))
        assert is_near(found[case].outputs, keras), case
    return {case: outcome.heads for case, outcome in found.items()}


def is_near(outputs, reference):
    same = outputs.shape == reference.shape
    return same and np.abs(outputs - reference).max() < 1e-4 * np.abs(reference).max()


def kind_of(outcome, right):
    """What was seen of a file; None for right outputs of an unknown kernel."""
    if outcome.error:
        return "refused"
    if not all(is_near(outcome.heads[head], right[head]) for head in right):
        return "wrong"
    return {True: "sparse", False: "dense", None: None}[outcome.sparse_kernels]


@pytest.mark.parametrize("part", PARTS)
def test_verdicts_are_true(tmp_path, part):
    """On wasm no profiler tells which kernels gave right outputs."""
    cases, names = PARTS[part]
    right = right_outputs(cases, tmp_path)
    for name in names:
        seen = {
            case: kind_of(outcome, right[case])
            for case, outcome in run(name, cases, tmp_path).items()
        }
        said = {c: sparse_cases.verdicts(c)[TARGETS[name]][0] for c in cases}
        if name == "wasm":
            is_right = ("sparse", "dense")
            said = {c: None if kind in is_right else kind for c, kind in said.items()}
        assert seen == said, name


def test_no_case_is_left_out():
    tested = [case for cases, _ in PARTS.values() for case in cases]
    assert sorted(tested) == sorted(sparse_cases.CASES)
    kinds = {sparse_cases.verdicts(case)["arm"][0] for case in USUAL}
    assert kinds == {"sparse", "dense", "wrong", "refused"}
