"""Files that would run code, or write or read elsewhere, are refused."""

import importlib.util
import io
import json
import os
import pathlib
import pickle
import zipfile

import h5py
import keras
import numpy as np
import pytest

import str_keras as stk
from str_keras import checkpoint

HAS_TORCH = importlib.util.find_spec("torch") is not None


class Touch:
    """Pickled, it makes a file where it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return pathlib.Path.touch, (pathlib.Path(self.path),)


@pytest.fixture
def mark(tmp_path):
    """A file that only code of a hostile one would make."""
    path = tmp_path / "code_was_run"
    yield path
    assert not path.exists()


def model_file(path):
    net = [keras.Input((4,)), keras.layers.Dense(3, name="dense")]
    stk.sparsify(keras.Sequential(net)).save(path)
    return path


def rewrite(path, change):
    """Writes a .keras file anew, its members changed by `change(dictionary)`."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    change(members)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def with_layer(path, layer):
    """A .keras file whose inner net has `layer` (its config) in place of its Dense."""

    def change(members):
        config = json.loads(members["config.json"])
        inner = config["config"]["model"]["config"]["layers"]
        inner[-1] = layer
        members["config.json"] = json.dumps(config).encode()

    rewrite(model_file(path), change)


def _object(module, name, config, registered=None):
    return {
        "module": module,
        "class_name": name,
        "config": config,
        "registered_name": registered,
    }


def layers(mark):
    """Configs that run code, or read files, where they are believed."""
    touch = f"touch {mark}"
    pickled = pickle.dumps(Touch(mark)).decode("latin-1")
    activation = {"name": "x", "units": 3, "trainable": True, "dtype": "float32"}
    return {
        "a function of os": _object("os", "system", touch),
        "builtins": _object("builtins", "exec", f"open({str(mark)!r}, 'w')"),
        "subprocess": _object("subprocess", "Popen", {"args": touch, "shell": True}),
        "a lambda": _object(
            "keras.layers",
            "Lambda",
            {
                "name": "x",
                "function": {
                    "class_name": "__lambda__",
                    "config": {"code": pickled, "defaults": None, "closure": None},
                },
            },
        ),
        "an activation of os": _object(
            "keras.layers",
            "Dense",
            {**activation, "activation": _object("os", "system", touch)},
        ),
        "a function of Keras that fetches": _object(
            "keras.utils", "get_file", {"fname": str(mark), "origin": "file:///etc"}
        ),
        "a pickled torch module": _object(
            "keras.layers", "TorchModuleWrapper", {"name": "x", "module": pickled}
        ),
    }


@pytest.mark.parametrize("name", sorted(layers("x")))
@pytest.mark.parametrize("compile", [False, True])
def test_refuses_models_that_would_run_code(tmp_path, mark, name, compile):
    path = tmp_path / "hostile.keras"
    with_layer(path, layers(mark)[name])
    with pytest.raises(ValueError, match=r"Keras cannot load the model: .+hostile"):
        checkpoint.load_model(path, compile=compile)


@pytest.mark.parametrize(
    "member", ["../outside", "/str_keras_outside", "assets/../../outside"]
)
def test_writes_nothing_outside_of_an_archive(tmp_path, member):
    folder = tmp_path / "inside"
    folder.mkdir()
    path = model_file(folder / "model.keras")
    rewrite(path, lambda members: members.update({member: b"hostile"}))
    before = set(tmp_path.rglob("*"))
    try:
        checkpoint.load_model(path)
    except ValueError as error:
        assert "Keras cannot load" in str(error)
    assert set(tmp_path.rglob("*")) == before
    assert not os.path.exists("/str_keras_outside")


def test_unpickles_no_weights(tmp_path, mark):
    """Keras also reads weights from an .npz, whose arrays may be pickled objects."""
    path = model_file(tmp_path / "model.keras")
    weights = io.BytesIO()
    np.savez(weights, **{"_vars": np.array([Touch(mark)], dtype=object)})

    def change(members):
        del members["model.weights.h5"]
        members["model.weights.npz"] = weights.getvalue()

    rewrite(path, change)
    with pytest.raises(ValueError, match="Keras cannot load"):
        checkpoint.load_model(path)


def group_link(layer, secret):
    del layer["vars"]
    layer["vars"] = h5py.ExternalLink(secret, "vars")


def dataset_link(layer, secret):
    del layer["vars/0"]
    layer["vars/0"] = h5py.ExternalLink(secret, "vars/0")


def soft_link(layer, secret):
    layer["other"] = layer["vars/0"][()]
    del layer["vars/0"]
    layer["vars/0"] = h5py.SoftLink(f"{layer.name}/other")


def external_dataset(layer, secret):
    shape, dtype = layer["vars/0"].shape, layer["vars/0"].dtype
    del layer["vars/0"]
    storage = [(secret, 0, h5py.h5f.UNLIMITED)]
    layer.create_dataset("vars/0", shape, dtype, external=storage)


def virtual_dataset(layer, secret):
    shape, dtype = layer["vars/0"].shape, layer["vars/0"].dtype
    layout = h5py.VirtualLayout(shape, dtype)
    layout[...] = h5py.VirtualSource(secret, "vars/0", shape)
    del layer["vars/0"]
    layer.create_virtual_dataset("vars/0", layout)


@pytest.mark.parametrize("form", [".keras", ".weights.h5"])
@pytest.mark.parametrize(
    "change", [group_link, dataset_link, soft_link, external_dataset, virtual_dataset]
)
def test_takes_no_weights_from_elsewhere(tmp_path, change, form):
    """HDF5 can name other files of the machine, whose content would be in the model."""
    options = {"alpha": 0.25, "input_shape": (32, 32, 3), "classes": 3}
    net = stk.models.MobileNetV1(**options)
    weights = tmp_path / "hostile.weights.h5"
    net.save_weights(weights)
    secret = os.fspath(tmp_path / "secret.h5")
    with h5py.File(weights, "r+") as file:
        found = [name for name in _groups(file) if "vars/0" in file[name]]
        layer = file[found[-1]]
        with h5py.File(secret, "w") as other:
            for name, value in layer["vars"].items():
                other[f"vars/{name}"] = np.full_like(value, 42)
        change(layer, secret)
    path = weights
    if form == ".keras":
        path = tmp_path / "hostile.keras"
        net.save(path)
        content = {"model.weights.h5": weights.read_bytes()}
        rewrite(path, lambda members: members.update(content))
        with pytest.raises(ValueError, match="Keras cannot load the model"):
            checkpoint.load_model(path)
    with pytest.raises(ValueError, match=r"Cannot load these weights .+Not allowed"):
        stk.models.MobileNetV1(**options, weights=path)


def _groups(file):
    names = []
    file.visit(names.append)
    return [name for name in names if isinstance(file[name], h5py.Group)]


@pytest.mark.parametrize("name", ["model.h5", "model.hdf5", "model"])
def test_reads_an_archive_by_no_other_format(tmp_path, name):
    """Keras would open these as its old HDF5, though they are an archive, too."""
    path = tmp_path / name
    path.write_bytes(model_file(tmp_path / "model.keras").read_bytes())
    with pytest.raises(ValueError, match="Keras cannot load"):
        checkpoint.load_model(path)


@pytest.mark.skipif(not HAS_TORCH, reason="PyTorch is not installed")
@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("kind", ["pickle", "torch", "old torch"])
def test_runs_no_code_of_a_torch_checkpoint(tmp_path, mark, protocol, kind):
    import torch

    path, content = tmp_path / "hostile.pth", {"state_dict": Touch(mark)}
    if kind == "pickle":
        path.write_bytes(pickle.dumps(content, protocol))
    else:
        new = kind == "torch"
        torch.save(
            content,
            path,
            pickle_protocol=protocol,
            _use_new_zipfile_serialization=new,
        )
    with pytest.raises(ValueError, match=r"hostile\.pth"):
        stk.torch_checkpoints.load(path)
