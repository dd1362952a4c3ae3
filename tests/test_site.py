"""The site of the documentation: built without a warning, with every public name."""

import os
import pathlib
import re
import subprocess

import pytest

import str_keras as stk
from tools import list_public_api

ROOT = pathlib.Path(__file__).parents[1]
TOOLS = pathlib.Path(
    os.environ.get("STR_KERAS_TOOLS_PYTHON", ROOT / ".venv-tools" / "bin" / "python")
)


def documented():
    """Paths that the reference has a section for."""
    text = "\n".join(p.read_text() for p in (ROOT / "docs" / "api").glob("*.md"))
    return re.findall(r"^::: (\S+)$", text, re.MULTILINE)


def resolve(path):
    thing = stk
    for name in path.split(".")[1:]:
        thing = getattr(thing, name)
    return thing


def test_every_public_name_is_in_the_reference():
    list_public_api.public_modules()  # imports them
    paths = documented()
    assert len(paths) == len(set(paths))
    things = [resolve(path) for path in paths]  # each exists
    for path, thing in list_public_api.public_names().items():
        assert any(thing is other for other in things), (
            f"{path} is public and not in the reference: name it in docs/api"
        )


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    if not TOOLS.is_file():
        pytest.skip(
            "no Python with mkdocs: run `make test-docs`, which sets up .venv-tools, "
            "or name one in STR_KERAS_TOOLS_PYTHON"
        )
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [str(TOOLS), "-m", "mkdocs", "build", "--strict", "-d", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stdout + done.stderr
    return folder


@pytest.mark.docs
def test_site_is_built_without_a_warning(site):
    pages = {str(p.relative_to(site)) for p in site.rglob("*.html")}
    guides = {f"{p.stem}.html" for p in (ROOT / "docs").glob("*.md")}
    assert pages >= guides | {"index.html", "results.html", "changelog.html"}
    reference = "".join(p.read_text() for p in (site / "api").glob("*.html"))
    for path in documented():
        assert f'id="{path}"' in reference, path
    # README's experiments are a page of their own, with their pictures.
    assert "Test accuracy in percent" not in (site / "index.html").read_text()
    results = (site / "results.html").read_text()
    assert "Test accuracy in percent" in results
    for picture in re.findall(r'<img [^>]*src="([^"]+)"', results):
        assert (site / picture).is_file(), picture


@pytest.mark.docs
def test_site_asks_no_other_server(site):
    for page in site.rglob("*.html"):
        text = page.read_text()
        for tag in re.findall(r"<(?:script|img|iframe|link) [^>]*>", text):
            if 'rel="canonical"' not in tag:
                assert not re.search(r'(?:src|href)="(?:https?:)?//', tag), tag
