"""Makes the files of the repository that pages link to a part of the site, so it works offline.

A page links to a file outside docs/ as in the repository: ``../examples/hosts/keras_fit.py``. The
site has a copy of this file. Programs get the suffix .txt, so that a browser shows them.
"""

import os
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
LINK = re.compile(r"\[(?P<text>[^\]]*)\]\((?P<path>(?:\.\./)+[^)#\s]+)(?P<anchor>#[^)\s]*)?\)")
PAGES = {"CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}


def _outside(folder: str, path: str) -> str | None:
    """Returns the path of a linked file in the repository, or None if it is a file of docs/."""
    target = posixpath.normpath(posixpath.join("docs", folder, path))
    return None if target.startswith("docs/") else target


def _in_site(target: str) -> str:
    """Returns the path under which the site has a file of the repository."""
    suffix = "" if target.endswith((".json", ".md", ".png", ".txt")) else ".txt"
    return PAGES.get(target, f"repository/{target}{suffix}")


def on_files(files: Files, config: Any) -> Files:
    """Adds the linked files. A link to a file that does not exist stays, and is reported."""
    for page in list(files.documentation_pages()):
        for link in LINK.finditer(page.content_string):
            target = _outside(posixpath.dirname(page.src_uri), link["path"])
            if target and (ROOT / target).is_file() and _in_site(target) not in files.src_uris:
                path = str(ROOT / target)
                files.append(File.generated(config, _in_site(target), abs_src_path=path))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Rewrites the links to files of the repository; a link to a folder becomes its text."""
    folder = posixpath.dirname(page.file.src_uri)

    def rewritten(link: re.Match[str]) -> str:
        target = _outside(folder, link["path"])
        if target is None:
            return link[0]
        if (ROOT / target).is_dir():
            return link["text"]
        path = os.path.relpath(_in_site(target), folder or ".")
        return f"[{link['text']}]({path}{link['anchor'] or ''})"

    return LINK.sub(rewritten, markdown)
