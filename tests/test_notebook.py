"""The notebook of notebooks/: as it is kept, and what it ends with when it is run."""

import json
import pathlib
import re
import sys

import keras
import numpy as np
import pytest
import rich.console

import str_keras as stk
from str_keras.tables import text_table

PATH = pathlib.Path(__file__).parents[1] / "notebooks" / "sparsify.ipynb"


def test_it_is_kept_without_outputs_and_paths_of_a_machine():
    text = PATH.read_text()
    cells = json.loads(text)["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert len(code) > 10
    for cell in code:
        assert cell["outputs"] == [] and cell["execution_count"] is None
    assert len({cell["id"] for cell in cells}) == len(cells)
    assert not re.search(r"(?<![\w.])/(home|root|tmp|work|Users)\b", text)


def test_tables_are_text_in_a_notebook_too(monkeypatch):
    """There rich shows what it prints, whatever the file it was given."""
    monkeypatch.setattr(rich.console, "_is_jupyter", lambda: True)
    table = text_table(["layer", "bytes"], [["conv1", "864"]])
    assert table.splitlines()[-1].split() == ["conv1", "864"]


def run(folder):
    """Executes every cell in a fresh kernel.

    Returns:
        The cells with their outputs, and the notebook's `result`.
    """
    import nbclient
    import nbformat

    book = nbformat.read(PATH, as_version=4)
    nbformat.validate(book)
    last = "import json, sys\nprint(json.dumps([sys.executable, result]))"
    book.cells.append(nbformat.v4.new_code_cell(last))
    nbclient.NotebookClient(
        book,
        timeout=1200,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
    ).execute()
    executable, result = json.loads(printed(book.cells.pop()))
    assert executable == sys.executable
    return book.cells, result


def printed(cell, stream="stdout"):
    outputs = [o for o in cell.outputs if o.output_type == "stream"]
    return "".join(o.text for o in outputs if o.name == stream)


def run_in_litert(path, images):
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path))
    interpreter.allocate_tensors()
    outputs = []
    for image in images:
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], image[None])
        interpreter.invoke()
        index = interpreter.get_output_details()[0]["index"]
        outputs.append(interpreter.get_tensor(index)[0])
    return np.array(outputs)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="it writes .tflite files"
)
def test_it_runs_and_ends_at_its_target_with_a_file_that_is_right(tmp_path):
    cells, result = run(tmp_path)
    by_id = {cell.id: cell for cell in cells}
    for name in ("load", "plot"):
        assert "image/png" in by_id[name].outputs[-1].data
    # What is shown: the tables, in the text they belong to, and no warning.
    assert "turned along height and width" in printed(by_id["make-ready"])
    assert "conv_pw_13" in printed(by_id["summary"])
    assert "smallest on disk" in printed(by_id["variants"])
    for cell in cells:
        if cell.cell_type == "code":
            assert "Warning" not in printed(cell, "stderr"), cell.id

    # The target, counted in the plain model that it leaves.
    folder = tmp_path / "sparsify_files"
    plain = keras.models.load_model(folder / "plain.keras")
    kernels = [
        np.asarray(layer.kernel)
        for layer in plain.layers
        if type(layer) is keras.layers.Conv2D and layer.kernel_size == (1, 1)
    ]
    zeros = sum(int((kernel == 0).sum()) for kernel in kernels)
    sparsity = zeros / sum(kernel.size for kernel in kernels)
    assert len(kernels) == 13
    assert abs(sparsity - 0.9) <= 1e-3
    assert result["sparsity"] == pytest.approx(sparsity, abs=1e-6)

    # The file, run on the same images beside that model.
    path = folder / "sparse-float32-sparse.tflite"
    pixels, labels = stk.data.load("fashion_mnist_5k", image_size=96, channels=3).raw(
        "test", 500
    )
    images = pixels.astype("float32") / 127.5 - 1
    outputs = run_in_litert(path, images)
    expected = plain.predict(images, verbose=0)
    assert np.abs(outputs - expected).max() <= 1e-4 * np.abs(expected).max()
    top1 = np.mean(outputs.argmax(-1) == labels)
    told = result["sparse"]
    assert told["litert"] == pytest.approx(top1, abs=0.005)
    assert told["keras"] == pytest.approx(top1, abs=0.005)
    assert told["bytes"] == path.stat().st_size
    assert 2 * told["bytes"] < result["dense"]["bytes"]
    assert stk.export.check_sparse(path).is_sparse
    # Ten classes; both nets learned what they are, with the statistics recalibrated.
    assert min(top1, result["dense"]["litert"]) > 0.5
