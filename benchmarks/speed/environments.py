"""Builds the environments of peers: ``python -m benchmarks.speed.environments FOLDER [NAME ...]``.

Each is a virtual environment in the folder, with the versions of ``requirements/NAME.txt``
(complete lists, resolved with Python 3.11). A finished environment is not built again.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import venv
from pathlib import Path
from typing import Final

REQUIREMENTS: Final = {
    file.stem: file for file in sorted((Path(__file__).parent / "requirements").glob("*.txt"))
}


def build(name: str, folder: Path) -> Path:
    """Build an environment, and return its interpreter.

    Raises:
        subprocess.CalledProcessError: If pip fails.
    """
    root = folder / name
    python = root / "bin" / "python"
    finished = root / "finished"
    wanted = REQUIREMENTS[name].read_text(encoding="utf-8")
    if finished.is_file() and finished.read_text(encoding="utf-8") == wanted:
        return python
    venv.create(root, clear=True, with_pip=True)
    install = [str(python), "-m", "pip", "install", "--quiet"]
    torch = next(line for line in wanted.splitlines() if line.startswith("torch=="))
    # With its dependencies for this machine (CUDA or none), which the lists leave out.
    subprocess.run([*install, torch], check=True)  # noqa: S603
    requirement = ["--no-deps", "--requirement", str(REQUIREMENTS[name])]
    subprocess.run([*install, *requirement], check=True)  # noqa: S603
    finished.write_text(wanted, encoding="utf-8")
    return python


def main() -> None:
    """Build environments."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="where they are built")
    parser.add_argument("names", nargs="*", choices=[*REQUIREMENTS, []], metavar="NAME")
    options = parser.parse_args()
    for name in options.names or REQUIREMENTS:
        sys.stdout.write(f"{build(name, options.folder)}\n")


if __name__ == "__main__":
    main()
