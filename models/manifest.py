"""`manifest.json` of a folder: the SHA-256 of each of its files, and nothing beside them.

It tells that a folder is as it was written: a file that was cut short, edited, exchanged, added or lost shows. It is no
signature: who rewrites the files and the manifest consistently is not told from who trained them. Keep checkpoints where
only those may write who may close a loop.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path

from plant.errors import ModelError

MANIFEST = "manifest.json"
# What a training run keeps here until it is done, and what desktops leave.
_NO_PART = ("training.state", "training.part", "work-", ".")
_MOST_BYTES = 1 << 30  # of a file: a checkpoint of ours has less than a hundredth of it


def seal(folder: Path, names: Iterable[str]) -> None:
    """Write the manifest of these files of `folder`."""
    hashes = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in sorted(names)}
    text = json.dumps({"algorithm": "SHA-256", "files": hashes}, indent=1) + "\n"
    unfinished = folder / f"work-{MANIFEST}"
    unfinished.write_text(text, encoding="utf-8")
    os.replace(unfinished, folder / MANIFEST)


def contents(folder: Path, needed: tuple[str, ...]) -> tuple[dict[str, bytes], bool]:
    """The `needed` files of `folder`, and whether a manifest vouches for all that lies there. What is returned is what was
    hashed. Raises `FileNotFoundError` where a needed file is missing and no manifest names it, `OSError` where one cannot be
    read, and `ModelError` for a folder that is not what its manifest says."""
    present, stated = present_in(folder), _stated(folder)
    if stated is None:
        return {name: _read(folder / name) for name in needed}, False
    if unnamed := [name for name in needed if name not in stated]:
        raise _refusal(folder, f"{MANIFEST} does not name {', '.join(unnamed)}")
    if lost := sorted(set(stated) - present):
        raise _refusal(folder, f"{', '.join(lost)} is named in {MANIFEST} and missing")
    if added := sorted(present - set(stated)):
        raise _refusal(folder, f"{', '.join(added)} is not named in {MANIFEST}", "Remove it, or train again.")
    read = {}
    for name, wanted in stated.items():
        data = _read(folder / name)
        if hashlib.sha256(data).hexdigest() != wanted:
            raise _refusal(folder, f"{name} was changed since it was written: its SHA-256 is not the one in {MANIFEST}")
        if name in needed:
            read[name] = data
    return read, True


def _stated(folder: Path) -> dict[str, str] | None:
    """File -> SHA-256 as the manifest says; None where there is none."""
    try:
        stated = json.loads(_read(folder / MANIFEST))
        if stated["algorithm"] != "SHA-256":
            raise _refusal(folder, f"{MANIFEST} is of the algorithm {stated['algorithm']!r}, not SHA-256")
        files = dict(stated["files"])
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, RecursionError) as e:
        raise _refusal(folder, f"{MANIFEST} is damaged: {type(e).__name__} {e}") from e
    if strange := [n for n, h in files.items() if Path(n).name != n or not isinstance(h, str)]:
        raise _refusal(folder, f"{MANIFEST} names {strange[0]!r}, which is no file of this folder with its SHA-256")
    return files


def present_in(folder: Path) -> set[str]:
    """What lies in `folder`, but for the manifest and for what is no part of it."""
    return {p.name for p in folder.iterdir() if p.name != MANIFEST and not p.name.startswith(_NO_PART)}


def _read(path: Path) -> bytes:
    if path.stat().st_size > _MOST_BYTES:
        raise _refusal(path.parent, f"{path.name} has {path.stat().st_size >> 20} MiB")
    return path.read_bytes()


def _refusal(
    folder: Path, what: str, fix: str = "Put back the folder as it was written, or train again."
) -> ModelError:
    return ModelError(" ".join(what.split()), str(folder), fix)
