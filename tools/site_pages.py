"""Pages and files that the site has from outside of docs/.

mkdocs runs it (`hooks` in mkdocs.yml). The pages are written for the repository, where
their links lead to files of it. On the site README is the first page, its experiments
are a page of their own, and every file that a page links to is there.
"""

# pyright: reportMissingImports=false
# mkdocs has an environment of its own.
from __future__ import annotations

import pathlib
import posixpath
import re
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = pathlib.Path(__file__).resolve().parents[1]
RESULTS = "results.md"
# Pages from outside of docs/, by their place on the site.
OUTSIDE = {
    "index.md": "README.md",
    RESULTS: "README.md",
    "benchmarks.md": "benchmarks/RESULTS.md",
    "changelog.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
}
_LINK = re.compile(r"(?<=\]\()(?!\w+:|#)([^)\s#]+)(#[^)\s]*)?(?=\))")
_FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


def read_page(place: str) -> str:
    """Markdown of a page as it is in the repository, by its place on the site."""
    text = (ROOT / source_of(place)).read_text(encoding="utf-8")
    if place not in ("index.md", RESULTS):
        return text
    first, _, rest = text.partition("\n## Experiments\n")
    results, _, more = rest.partition("\n## More\n")
    if place == "index.md":
        return (
            f"{first}\n## Experiments\n\n[Results](docs/{RESULTS}).\n\n## More\n{more}"
        )
    return "# Results" + re.sub(r"^##(?=#)", "#", f"\n{results}", flags=re.MULTILINE)


def source_of(place: str) -> str:
    """Path in the repository of a page's place on the site."""
    return OUTSIDE.get(place, f"docs/{place}")


def place_of(path: str, anchor: str) -> str:
    """Place on the site of a file of the repository.

    Args:
        path: From the checkout's root.
        anchor: Of the link, with its "#", or "".
    """
    if path == "README.md" and anchor and anchor[1:] in _anchors(read_page(RESULTS)):
        return RESULTS
    for place, source in OUTSIDE.items():
        if path == source:
            return place
    return path.removeprefix("docs/")


def _anchors(text: str) -> set[str]:
    """Anchors of the headings of a text, as Markdown's `toc` makes them, nearly."""
    headings = re.findall(r"^#+ (.*)", _FENCED.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w-]+", "-", h.lower()).strip("-") for h in headings} | {
        "experiments"
    }


def rewrite(text: str, place: str) -> tuple[str, set[str]]:
    """Turns links to files of the repository into links within the site.

    Args:
        text: Markdown of a page.
        place: The page's place on the site.

    Returns:
        The text, and the paths of the files that it links to, from the checkout's root.
    """
    found = set()
    folder = posixpath.dirname(source_of(place))

    def turn(match: re.Match[str]) -> str:
        target, anchor = match[1], match[2] or ""
        path = posixpath.normpath(posixpath.join(folder, target))
        if not (ROOT / path).is_file() and path != f"docs/{RESULTS}":
            return match[0]  # mkdocs warns of it
        there = place_of(path, anchor)
        found.add(path)
        if there == RESULTS and anchor == "#experiments":
            anchor = ""
        return posixpath.relpath(there, posixpath.dirname(place) or ".") + anchor

    return _LINK.sub(turn, text), found


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages from outside of docs/, and what any page links to."""
    for place in OUTSIDE:
        files.append(File.generated(config, place, content=read_page(place)))
    pages = [file.src_uri for file in files.documentation_pages()]
    linked = set().union(*(rewrite(read_page(place), place)[1] for place in pages))
    for path in sorted(linked):
        place = place_of(path, "")
        if files.get_file_from_path(place) is None:
            files.append(File.generated(config, place, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Turns the links of a page."""
    return rewrite(markdown, page.file.src_uri)[0]
