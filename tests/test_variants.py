"""Every kind of file of one model: sizes, what is left out, what is recommended."""

import gzip
import json

import keras
import numpy as np
import pytest
import zstandard
from export_models import dense_over_maps, fill, mobile, nonzeros

from str_keras import export
from str_keras.export import Kind
from str_keras.export.kinds import KINDS
from str_keras.export.recommending import Variant, recommend
from str_keras.export.report import TFLiteReport
from str_keras.export.xnnpack import TARGETS

WITH_KERNELS = ["arm", "wasm", "x86_no_avx"]


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).normal(size=(16, 25, 25, 3)).astype("float32")


@pytest.fixture(scope="module")
def made(tmp_path_factory, images):
    directory = tmp_path_factory.mktemp("variants") / "new"
    model = mobile()
    report = export.variants(
        model, directory, name="net", images=images, calibration=images
    )
    return model, directory, report


def test_sizes_are_those_of_the_files(made):
    model, directory, report = made
    assert [v.kind for v in report.variants] == list(KINDS)
    assert not report.refused and not report.left_out
    for variant in report.variants:
        path = directory / f"net-{variant.kind.name}.tflite"
        content = path.read_bytes()
        assert variant.report.path == str(path)
        assert variant.report.bytes == len(content)
        assert variant.report.gzip_bytes == len(gzip.compress(content, 9))
        packed = zstandard.ZstdCompressor(level=19).compress(content)
        assert variant.zstd_bytes == len(packed)
        told = json.loads(path.with_suffix(".json").read_text())
        assert told["bytes"] == len(content)
        assert told["kernels"] == variant.report.stored
    assert variant.report.model_nonzeros == nonzeros(model)
    told = json.loads((directory / "net-variants.json").read_text())
    assert told == json.loads(json.dumps(report.to_json()))
    assert [file["bytes"] for file in told["files"]] == [
        v.report.bytes for v in report.variants
    ]


def test_what_is_recommended_is_so(made):
    _, _, report = made
    by_kind = {v.kind.name: v for v in report.variants}
    taken = {r.goal: r.kind for r in report.recommendations}
    disk = min(by_kind, key=lambda kind: by_kind[kind].report.bytes)
    assert taken["smallest on disk"] == disk
    packed = min(by_kind, key=lambda kind: by_kind[kind].report.gzip_bytes)
    assert taken["smallest to download"] == packed
    sparse = [kind for kind in by_kind if "sparse" in kind]
    for target in WITH_KERNELS:
        least = min(sparse, key=lambda kind: by_kind[kind].report.bytes)
        assert taken[f"fastest on {target}"] == least
    assert taken["fastest on x86_avx"] == "int8"
    table = str(report)
    for variant in report.variants:
        assert f"{variant.report.bytes:,}" in table
        assert f"{variant.zstd_bytes:,}" in table
    assert "smallest on disk" in table and "not timed" in table


def test_sparse_files_switch_sparse_kernels_on(made):
    """The one for downloads too, though its kernels are smaller dense in a gzip."""
    _, _, report = made
    for variant in report.variants:
        on = "sparse" if variant.kind.sparse else "dense"
        assert [variant.report.runs[t] for t in WITH_KERNELS] == [on] * 3
        assert variant.report.runs["x86_avx"] == "dense"
        assert bool(variant.report.rewritten) == variant.kind.sparse
        assert (variant.report.densify_ops > 0) == variant.kind.sparse


@pytest.mark.parametrize("sparsity", [0.0, 0.2])
def test_a_model_of_few_zeros_has_no_sparse_files(tmp_path, images, sparsity):
    report = export.variants(mobile(sparsity), tmp_path, images=images)
    assert [v.kind.name for v in report.variants] == [
        "float32",
        "float16",
        "int8_weights",
    ]
    assert set(report.left_out) == {k.name for k in KINDS if k.sparse}
    assert "calibration" in report.refused["int8"]
    for recommendation in report.recommendations:
        assert recommendation.kind == "int8_weights"
    told = str(report)
    assert "float16-sparse was left out: no kernel" in told
    assert "int8 was not written" in told


@pytest.mark.parametrize("build", [lambda: mobile(0.7), dense_over_maps])
def test_one_kernel_is_sparse_though_none_is_smaller_so(tmp_path, build):
    """Where sparse kernels would have zeros enough, the cheapest is made sparse."""
    kind = Kind("int8_weights", sparse=True, smallest="download")
    path = tmp_path / "m.tflite"
    report = export.tflite(
        build(), path, weights="int8_weights", sparse=True, smallest="download"
    )
    assert report.densify_ops == 1
    assert "not smaller than its dense twin" in report.note
    assert [report.runs[t] for t in WITH_KERNELS] == ["sparse"] * 3
    dense = export.tflite(build(), tmp_path / "d.tflite", weights="int8_weights")
    assert report.gzip_bytes < dense.gzip_bytes + 700
    assert kind.name == "int8_weights-sparse-download"


def test_a_file_that_another_kind_gives_too_is_left_out(tmp_path):
    """A table that is sparse in float32 alone, see test_rewrite."""
    numbers = keras.Input((12,))
    places = keras.ops.cast(40 * keras.ops.abs(numbers), "int32")
    x = keras.layers.Embedding(200, 16)(places)
    model = keras.Model(numbers, keras.layers.Flatten()(x))
    fill(model, 0.95)
    kinds = [Kind("float32", sparse=True), Kind("float16", sparse=True)]
    report = export.variants(model, tmp_path, kinds=kinds)
    assert [v.kind for v in report.variants] == kinds[:1]
    assert report.left_out == {"float16-sparse": "the same file as float32-sparse"}


def test_files_that_exist_stay(tmp_path, images):
    mine = tmp_path / "model-int8_weights.json"
    mine.write_text("mine")
    with pytest.raises(FileExistsError, match="overwrite"):
        export.variants(mobile(), tmp_path, images=images)
    assert [p.name for p in tmp_path.iterdir()] == [mine.name]
    assert mine.read_text() == "mine"
    kinds = [Kind("int8_weights")]
    export.variants(mobile(), tmp_path, kinds=kinds, images=images, overwrite=True)
    assert json.loads(mine.read_text())["weights"] == "int8_weights"


BAD = {
    "weights": ({"kinds": [Kind("float32"), Kind("int4")]}, "int4"),
    "tolerance": ({"tolerance": 2.0}, "tolerance=2.0"),
    "time of a target": ({"seconds": {"phone": {"int8": 1.0}}}, "phone="),
    "time of a kind": ({"seconds": {"arm": {"int4": 1.0}}}, "int4"),
    "calibration": ({"calibration": np.zeros((4, 3, 3, 3), "float32")}, "calibration"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_arguments_are_refused_before_a_file_is_written(tmp_path, case):
    arguments, said = BAD[case]
    with pytest.raises(ValueError, match=said):
        export.variants(mobile(), tmp_path, **arguments)
    assert not list(tmp_path.iterdir())


def test_what_is_not_written_now_but_lies_there_is_told(tmp_path, images):
    """Times of a kind that is refused are no fault of the caller's either."""
    kinds = [Kind("float32"), Kind("float32", sparse=True), Kind("int8_weights")]
    old = tmp_path / "model-float32-sparse.tflite"
    old.write_text("of another model")
    report = export.variants(
        mobile(0.0),
        tmp_path,
        kinds=kinds,
        images=images,
        tolerance=1e-4,
        seconds={"arm": {"int8_weights": 0.001, "float32": 0.002}},
        overwrite=True,
    )
    assert old.read_text() == "of another model"
    assert report.left_out["float32-sparse"].endswith(
        "older file of that name is still there"
    )
    assert "differs" in report.refused["int8_weights"]
    assert "older" not in report.refused["int8_weights"]
    arm = next(r for r in report.recommendations if r.goal == "fastest on arm")
    assert (arm.kind, arm.because) == ("float32", "measured: 2 ms")


def test_what_proves_wrong_is_told_and_the_others_stay(tmp_path, images):
    """A tolerance that int8_weights cannot keep."""
    kinds = [Kind("float32"), Kind("int8_weights")]
    report = export.variants(
        mobile(), tmp_path, kinds=kinds, images=images, tolerance=1e-4
    )
    assert [v.kind.name for v in report.variants] == ["float32"]
    assert "differs" in report.refused["int8_weights"]
    assert not (tmp_path / "model-int8_weights.tflite").exists()
    with pytest.raises(export.ExportError, match="no file could be written"):
        export.variants(
            mobile(), tmp_path / "b", kinds=kinds[1:], images=images, tolerance=1e-4
        )


def test_files_that_are_wrong_where_sparse_kernels_run_are_refused(tmp_path):
    """Padding of an even extent is on two sides; XNNPACK computes another thing."""
    report = export.variants(mobile(size=24, padding="same"), tmp_path)
    written = [v.kind.name for v in report.variants]
    assert written == ["float32", "float16", "int8_weights"]
    refused = {k: v for k, v in report.refused.items() if k != "int8"}
    assert set(refused) | set(report.left_out) == {k.name for k in KINDS if k.sparse}
    assert {"float32-sparse", "float16-sparse"} <= set(refused)
    for reason in refused.values():
        assert "are wrong" in reason and "\n" not in reason
    assert not list(tmp_path.glob("*sparse*"))
    with pytest.raises(export.ExportError, match="are wrong"):
        export.tflite(
            mobile(size=24, padding="same"), tmp_path / "m.tflite", sparse=True
        )


def variant(kind, size, gzipped, zstd, sparse=()):
    """A file of made-up sizes."""
    numbers = dict.fromkeys(
        ("params", "nonzeros", "model_nonzeros", "densify_ops", "verified_on"), 1
    )
    report = TFLiteReport(
        path=f"{kind}.tflite",
        weights=kind.partition("-")[0],
        sparse="sparse" in kind,
        batch_size=1,
        uint8_input=False,
        bytes=size,
        gzip_bytes=gzipped,
        dense_bytes=None,
        difference=0.0,
        agreement=None,
        top1=None,
        model_top1=None,
        verified_with="images",
        note="",
        runs={t: "sparse" if t in sparse else "dense" for t in TARGETS},
        **numbers,
    )
    return Variant(Kind(report.weights, report.sparse), report, zstd)


FILES = {
    "float32": variant("float32", 1000, 400, 350),
    "float16-sparse": variant("float16-sparse", 300, 290, 280, WITH_KERNELS),
    "int8": variant("int8", 320, 200, 190),
    "int8_weights-sparse": variant("int8_weights-sparse", 250, 210, 185, ["arm"]),
}
EACH = tuple(TARGETS)
CASES = {
    "all": (
        FILES,
        None,
        {
            "smallest on disk": "int8_weights-sparse",
            "smallest to download": "int8",
            "fastest on arm": "int8_weights-sparse",
            "fastest on wasm": "float16-sparse",
            "fastest on x86_no_avx": "float16-sparse",
            "fastest on x86_avx": "int8",
        },
    ),
    "no integers": (
        {k: v for k, v in FILES.items() if k != "int8"},
        None,
        {
            "smallest to download": "int8_weights-sparse",
            "fastest on x86_avx": "int8_weights-sparse",
        },
    ),
    "one": (
        {"float32": FILES["float32"]},
        None,
        {f"fastest on {target}": "float32" for target in EACH},
    ),
    "times": (
        FILES,
        {"arm": {"int8": 0.002, "float16-sparse": 0.0015, "float32": 0.009}},
        {"fastest on arm": "float16-sparse", "fastest on wasm": "float16-sparse"},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_recommendations(case):
    files, seconds, expected = CASES[case]
    found = {r.goal: r for r in recommend(list(files.values()), seconds)}
    assert {goal: found[goal].kind for goal in expected} == expected
    assert list(found) == [
        "smallest on disk",
        "smallest to download",
        *(f"fastest on {target}" for target in EACH),
    ]
    for target in EACH:
        told = found[f"fastest on {target}"].because
        assert ("measured" in told) == (target in (seconds or {}))
    if case == "times":
        assert found["fastest on arm"].because == "measured: 1.5 ms, int8 2 ms"
    if case == "all":
        told = found["smallest to download"].because
        assert told == (
            "200 bytes by gzip, 190 by zstd; by zstd it is int8_weights-sparse, 185"
        )


@pytest.mark.parametrize(
    "seconds", [{"phone": {"int8": 1.0}}, {"arm": {"int4": 1.0}}, {"arm": {}}]
)
def test_times_of_nothing_known(seconds):
    with pytest.raises(ValueError, match="Received: ") as caught:
        recommend(list(FILES.values()), seconds)
    assert "\n" not in str(caught.value)
