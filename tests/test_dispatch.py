"""Steps taken in parts, several a call, or on a TPU: the training is the same."""

import functools
import json

import keras
import numpy as np
import pytest
from tiny_training import tiny, write_images

import str_keras as stk
from str_keras import checkpoint, training
from str_keras.config import TrainConfig
from str_keras.config_files import from_dict

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        keras.backend.backend() != "tensorflow", reason="training uses tf.distribute"
    ),
]


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """Of a net without batch normalization, which sees only a part of the batch."""
    stk.models.ARCHITECTURES["plain"] = functools.partial(tiny, normalized=False)
    yield TrainConfig(
        architecture="plain",
        dataset=f"folder:{write_images(tmp_path_factory.mktemp('images'))}",
        image_size=32,
        augment="crop_flip",
        epochs=2,
        batch_size=16,
        lr=0.05,
        warmup_epochs=1,
        smooth_schedule=True,
        weight_decay=5e-4,
        threshold_decay=0.5,
        s_init=-8.0,
    )
    del stk.models.ARCHITECTURES["plain"]


@pytest.fixture(scope="module")
def plain(config, tmp_path_factory):
    return training.train_and_evaluate(config, tmp_path_factory.mktemp("plain") / "run")


def trained(config, run_dir, **changes):
    return training.train_and_evaluate(
        from_dict({**config.to_dict(), **changes}), run_dir
    )


def assert_same(result, other, tolerance):
    for a, b in zip(result.model.weights, other.model.weights, strict=True):
        np.testing.assert_allclose(np.array(a), np.array(b), tolerance, tolerance)
    for ours, theirs in zip(result.metrics, other.metrics, strict=True):
        for name in set(ours) - {"seconds", "images_per_second"}:
            wanted = pytest.approx(theirs[name], 10 * tolerance, abs=tolerance)
            assert ours[name] == wanted, name


@pytest.mark.parametrize("parts", [2, 8])
def test_gradients_of_parts_make_the_step_of_the_whole(config, plain, tmp_path, parts):
    result = trained(config, tmp_path / "run", gradient_accumulation_steps=parts)
    assert_same(result, plain, 1e-5)
    assert result.model.optimizer.iterations == plain.model.optimizer.iterations == 12


def test_several_steps_a_call_are_the_same_steps(config, plain, tmp_path):
    """Six batches an epoch by four: the last call takes two."""
    result = trained(config, tmp_path / "run", steps_per_execution=4)
    assert_same(result, plain, 1e-6)
    model, progress = checkpoint.load(tmp_path / "run" / "last.keras")
    assert (progress.epoch, progress.step) == (2, 0)
    assert model.optimizer.iterations == 12


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gradient_accumulation_steps": 3}, "multiple of the parts.*steps=3"),
        ({"gradient_accumulation_steps": 0}, "gradient_accumulation_steps=0"),
        ({"steps_per_execution": 0}, "steps_per_execution=0"),
    ],
)
def test_bad_parts(config, changes, message):
    with pytest.raises(ValueError, match=message):
        from_dict({**config.to_dict(), **changes})


@pytest.mark.parametrize(
    "changes",
    [{"gradient_accumulation_steps": 2}, {"steps_per_execution": 2}, {"xla": True}],
    ids=lambda changes: next(iter(changes)),
)
def test_what_several_replicas_cannot_do(
    config, changes, tmp_path, mirrored, monkeypatch
):
    monkeypatch.setattr(training, "create_strategy", lambda name: mirrored)
    with pytest.raises(ValueError, match=f"leave --{next(iter(changes))} out"):
        trained(config, tmp_path / "run", **changes)
    assert not (tmp_path / "run").exists()


def test_a_tpu_trains_as_one_device(config, plain, tmp_path, monkeypatch):
    """Each call of TensorFlow's that leads to one; its cores are here a CPU's."""
    import tensorflow as tf

    calls = []

    def told(name, result=None):
        def call(*arguments, **named):
            calls.append((name, *arguments, *named.values()))
            return result

        return call

    class Cores(tf.distribute.OneDeviceStrategy):
        """Keras asks for the class."""

        def __init__(self, resolver):
            super().__init__("CPU:0")
            calls.append(("TPUStrategy", resolver))

    resolver = "the resolver"
    for place, name, result in (
        (tf.distribute.cluster_resolver, "TPUClusterResolver", resolver),
        (tf.config, "experimental_connect_to_cluster", None),
        (tf.tpu.experimental, "initialize_tpu_system", None),
    ):
        assert callable(getattr(place, name))  # of the public API
        monkeypatch.setattr(place, name, told(name, result))
    assert issubclass(tf.distribute.TPUStrategy, tf.distribute.Strategy)
    monkeypatch.setattr(tf.distribute, "TPUStrategy", Cores)
    monkeypatch.setenv("TPU_NAME", "slice")
    result = trained(config, tmp_path / "run", strategy="tpu")
    assert calls == [
        ("TPUClusterResolver", "slice"),
        ("experimental_connect_to_cluster", resolver),
        ("initialize_tpu_system", resolver),
        ("TPUStrategy", resolver),
    ]
    assert_same(result, plain, 1e-6)
    stored = json.loads((tmp_path / "run" / "config.json").read_text())
    assert stored["config"]["strategy"] == "tpu"


def test_no_tpu_is_said_with_the_mend(config, tmp_path, monkeypatch):
    monkeypatch.setenv("TPU_NAME", "local")
    with pytest.raises(ValueError, match="name one in TPU_NAME, or choose another"):
        trained(config, tmp_path / "run", strategy="tpu")
