"""Remake ``text.txt.xz`` byte for byte from the standard library of CPython 3.11.7.

Usage::

    python3.11 make_text.py text.txt.xz

The text is the topics of ``help``, which are parts of Python's documentation, with each paragraph
only once. The text differs between versions of Python, so the package contains one version.

Needs the standard library.
"""

import argparse
import lzma
from pathlib import Path
from pydoc_data.topics import topics


def text() -> str:
    """Returns the topics in alphabetic order, without repeated paragraphs."""
    paragraphs = "\n\n".join(topics[name] for name in sorted(topics)).split("\n\n")
    return "\n\n".join(dict.fromkeys(paragraphs))


def main() -> None:
    """Writes the file."""
    parser = argparse.ArgumentParser()
    parser.add_argument("file", type=Path)
    packed = lzma.compress(text().encode(), format=lzma.FORMAT_XZ, check=lzma.CHECK_CRC64, preset=9)
    parser.parse_args().file.write_bytes(packed)


if __name__ == "__main__":
    main()
