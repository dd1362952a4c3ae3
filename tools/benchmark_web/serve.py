"""Serves a page that times .tflite files in the browser of whoever opens it.

python tools/benchmark_web/serve.py --model=dense.tflite --model=sparse.tflite
python tools/benchmark_web/serve.py --host=0.0.0.0  # files are dropped into the page

The first file is what the others are compared with. Threads want a page of localhost
(on a phone: adb reverse tcp:8000 tcp:8000) or https. `tools/setup_runtimes.sh web`
brings LiteRT.js; the page then needs no network.
"""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import sys
import tempfile

from absl import flags

os.environ["STR_KERAS_PROGRAM"] = "1"  # a start without TensorFlow's log
from str_keras import cli

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))  # experiments lies there, in no package
FLAGS = flags.FLAGS


def write_site(folder: pathlib.Path, files: list[str]) -> None:
    """Lays out the page, what it shares with the demonstration's, LiteRT.js, and files.

    Args:
        folder: Where to; it is there.
        files: Paths of .tflite files, the one to compare with first.

    Raises:
        FileNotFoundError: if a file or LiteRT.js is missing.
        ValueError: if two files have the same name.
    """
    from experiments import demo_site
    from str_keras.export.runtimes import installed

    demo_site.write_packages(folder, installed.home() / "web" / "node_modules")
    for page in (HERE, demo_site.PAGE):
        parts = (".js", ".css")
        names = [path.name for path in page.iterdir() if path.suffix in parts]
        (folder / page.name).mkdir()
        for name in names:
            shutil.copyfile(page / name, folder / page.name / name)
    shutil.copyfile(HERE / "index.html", folder / "index.html")
    (folder / "files").mkdir()
    listed = []
    for i, path in enumerate(map(pathlib.Path, files)):
        if not path.is_file():
            raise FileNotFoundError(f"There is no such file. Received: file={path}")
        if path.name in [file["name"] for file in listed]:
            raise ValueError(f"two files have the same name. Received: {path.name}")
        listed.append({"name": path.name, "path": f"files/{i}.tflite"})
        shutil.copyfile(path, folder / listed[-1]["path"])
    (folder / "files" / "index.json").write_text(json.dumps({"files": listed}))


def main() -> None:
    """Serves until Ctrl-C."""
    from experiments import demo_site

    with tempfile.TemporaryDirectory() as name:
        write_site(pathlib.Path(name), FLAGS.model)
        server = demo_site.create_server(pathlib.Path(name), FLAGS.host, FLAGS.port)
        with server:
            port = server.server_address[1]
            print(f"http://localhost:{port}/ times files; Ctrl-C ends it", flush=True)
            try:
                server.serve_forever()
            except KeyboardInterrupt:
                print("\nended")


if __name__ == "__main__":
    flags.DEFINE_multi_string(
        "model", [], "A .tflite file; again for more. The first is the baseline."
    )
    flags.DEFINE_string("host", "127.0.0.1", "Address; 0.0.0.0: to other machines too.")
    flags.DEFINE_integer("port", 8000, "Port; 0 takes a free one.", 0, 65535)
    cli.run(main)
