"""Makes a page that shows a dense net beside its sparse twin, and serves it.

`make demo`, or `python -m experiments.demo`: trains the twins if there are none yet,
exports both, and serves the page on this machine; from then on without a network.
"""

from __future__ import annotations

import os
import pathlib
import shlex
import sys
from typing import Any

from absl import flags

os.environ["STR_KERAS_PROGRAM"] = "1"  # a start without TensorFlow's log
from str_keras import cli

FLAGS = flags.FLAGS
flags.DEFINE_string("output", "runs/demo", "Folder for runs and the site.")
flags.DEFINE_string("config", "demo", "Recipe of both twins, as of str_keras.train.")
flags.DEFINE_string("dataset", "", "Instead of the recipe's images.")
flags.DEFINE_string("data_dir", "", "Where that data set lies.")
flags.DEFINE_integer("epochs", None, "Instead of the recipe's (to try it out).", 1)
flags.DEFINE_string("dense", "", "A .tflite file to show instead of training.")
flags.DEFINE_string("sparse", "", "Its twin; both with the JSON of stk.export.")
flags.DEFINE_boolean("serve", True, "Serve the page; --noserve only makes it.")
flags.DEFINE_string(
    "picture",
    "",
    "Instead of serving: measures the page in headless Chromium, takes its picture "
    "into this PNG, and writes the numbers to result.json in --output.",
)
flags.DEFINE_string("host", "127.0.0.1", "Address to serve at; 0.0.0.0: to others too.")
flags.DEFINE_integer("port", 8000, "Port to serve at; 0 takes a free one.", 0, 65535)

# What each twin is shipped as; the same format, so that sizes compare.
METHODS = {"dense": False, "str": True}
WEIGHTS = "float32"


def _train(method: str, output: pathlib.Path) -> Any:
    from str_keras import config_files, training

    values = {**config_files.read(config_files.find(FLAGS.config)), "method": method}
    for name in ("dataset", "data_dir", "epochs"):
        if FLAGS[name].value:
            values[name] = FLAGS[name].value
    run_dir = output / method
    print(f"\n== {method}: {run_dir}", flush=True)
    return training.train_and_evaluate(
        config_files.from_dict(values),
        run_dir,
        resume=(run_dir / "config.json").exists(),
        command=_command(),
    )


def _command() -> str:
    return shlex.join(["python", "-m", "experiments.demo", *sys.argv[1:]])


def _export(method: str, model: Any, dataset: Any, path: pathlib.Path) -> Any:
    import str_keras as stk
    from str_keras.startup import stderr_aside

    images, labels = dataset.raw("test", dataset.info.num_test)
    with stderr_aside():
        return stk.export.tflite(
            stk.strip(model),
            path,
            weights=WEIGHTS,
            sparse=METHODS[method],
            images=images,
            labels=labels,
            class_names=dataset.info.class_names,
            preprocessing=dataset.preprocessing,
            overwrite=True,
        )


def _make_twins(output: pathlib.Path, site: pathlib.Path) -> None:
    """Trains, exports and lays the files into the site."""
    from experiments import demo_site
    from str_keras import data
    from str_keras.export import report_table
    from str_keras.run_directory import dataset_of_run

    models = {method: _train(method, output).model for method in METHODS}
    dataset = data.load(**dataset_of_run(output / "str" / "last.keras"))
    print("\n== files, each loaded, run on the test images and compared with Keras")
    paths = {method: output / "files" / f"{method}.tflite" for method in METHODS}
    reports = [_export(m, models[m], dataset, path) for m, path in paths.items()]
    print(report_table(reports))
    demo_site.write_models(site, paths["dense"], paths["str"])
    demo_site.write_images(site, dataset)


def _take_twins(site: pathlib.Path) -> None:
    """Lays files that are there into the site, with test images of --dataset."""
    from experiments import demo_site
    from str_keras import data

    if not (FLAGS.dense and FLAGS.sparse and FLAGS.dataset):
        raise ValueError(
            "--dense, --sparse and --dataset, for the test images, go together. "
            f"Received: dense={FLAGS.dense!r}, sparse={FLAGS.sparse!r}, "
            f"dataset={FLAGS.dataset!r}"
        )
    dense, sparse = pathlib.Path(FLAGS.dense), pathlib.Path(FLAGS.sparse)
    demo_site.write_models(site, dense, sparse)
    size, channels = demo_site.image_form(site)
    dataset = data.load(
        FLAGS.dataset,
        data_dir=FLAGS.data_dir or None,
        image_size=size,
        channels=channels,
    )
    demo_site.write_images(site, dataset)


def _check_same(output: pathlib.Path) -> None:
    """Refuses flags for other twins than those that are there."""
    from str_keras.config_files import read

    path = output / "str" / "config.json"
    trained = read(path) if path.is_file() else {}
    names = ("dataset", "data_dir", "epochs")
    given = {name: FLAGS[name].value for name in names if FLAGS[name].present}
    other = [f"{k}={v}" for k, v in given.items() if trained.get(k) != v]
    if other:
        raise ValueError(
            f"the twins in {output} are others: name another --output. "
            f"Received: {', '.join(other)}"
        )


def main() -> None:
    """Makes what is missing and serves."""
    from experiments import demo_site
    from str_keras.export.runtimes import installed

    output = pathlib.Path(FLAGS.output)
    site = output / "site"
    # First, as it fails at once where the packages are missing.
    demo_site.write_page(site, installed.home() / "web" / "node_modules")
    if FLAGS.dense or FLAGS.sparse:
        _take_twins(site)
    elif not demo_site.is_complete(site):
        _make_twins(output, site)
    else:
        _check_same(output)
    if FLAGS.picture:
        _take_picture(site, output)
    elif FLAGS.serve:
        _serve(site)


def _take_picture(site: pathlib.Path, output: pathlib.Path) -> None:
    from experiments import demo_record

    picture = pathlib.Path(FLAGS.picture)
    record = demo_record.write_record(site, output, picture, _command())
    print(
        f"\n{picture} and {output / 'result.json'}: sparse is "
        f"{record['dense_time_over_sparse']:.2f} times faster and "
        f"{record['dense_bytes_over_sparse']:.2f} times smaller"
    )


def _serve(site: pathlib.Path) -> None:
    from experiments import demo_site

    with demo_site.create_server(site, FLAGS.host, FLAGS.port) as server:
        port = server.server_address[1]
        print(f"\nhttp://localhost:{port}/ shows {site}; Ctrl-C ends it", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print("\nended; the same command serves it again")


if __name__ == "__main__":
    cli.run(main)
