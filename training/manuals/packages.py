"""Files of Debian's packages, fetched and unpacked by Debian's own tools."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from rerank_plugins.errors import MissingDependencyError


def fetch(packages: Sequence[str], folder: Path) -> None:
    """Unpack packages, each into a folder of its name; those that are there stay.

    Args:
        packages: Their names.
        folder: Where to.

    Raises:
        MissingDependencyError: If this is no Debian system.
        subprocess.CalledProcessError: If a package is not to be had.
    """
    wanted = [name for name in packages if not (folder / name).is_dir()]
    if wanted and shutil.which("apt-get") is None:
        message = (
            "the manuals are fetched from Debian's packages, and this system has no apt-get. Run "
            "this step on one that has, or leave [sources.manuals] out of the configuration."
        )
        raise MissingDependencyError(message)
    for name in wanted:
        unfinished = folder / f"{name}.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        subprocess.run(["apt-get", "download", "--quiet", name], cwd=unfinished, check=True)  # noqa: S603, S607
        (file,) = unfinished.glob("*.deb")
        unpack(file, unfinished)
        file.unlink()
        unfinished.rename(folder / name)


def unpack(file: Path, folder: Path) -> None:
    """Write the files of a package into a folder."""
    subprocess.run(["dpkg-deb", "--extract", str(file), str(folder)], check=True)  # noqa: S603, S607
