"""Builds the peers' environments: ``python -m benchmarks.speed.environments FOLDER [NAME ...]``.

Each is a virtual environment in the folder, with the versions of the file NAME.txt beside this
one (made with Python 3.11; they are complete, so nothing else is resolved). An environment that
is there and was finished is left alone.
"""

from __future__ import annotations

import subprocess
import venv
from pathlib import Path
from typing import Annotated, Final

import typer

LISTS: Final = {file.stem: file for file in sorted(Path(__file__).parent.glob("*.txt"))}


def build(name: str, folder: Path) -> Path:
    """Build an environment, and return its interpreter.

    Raises:
        subprocess.CalledProcessError: If pip fails.
    """
    root = folder / name
    python = root / "bin" / "python"
    finished = root / "finished"
    wanted = LISTS[name].read_text(encoding="utf-8")
    if finished.is_file() and finished.read_text(encoding="utf-8") == wanted:
        return python
    venv.create(root, clear=True, with_pip=True)
    install = [str(python), "-m", "pip", "install", "--quiet"]
    torch = next(line for line in wanted.splitlines() if line.startswith("torch=="))
    # With what it needs on this machine (CUDA's libraries or nothing); the lists leave those out.
    subprocess.run([*install, torch], check=True)  # noqa: S603
    subprocess.run([*install, "--no-deps", "--requirement", str(LISTS[name])], check=True)  # noqa: S603
    finished.write_text(wanted, encoding="utf-8")
    return python


def main(
    folder: Annotated[Path, typer.Argument(help="Where they are built.")],
    names: Annotated[list[str] | None, typer.Argument(help=", ".join(LISTS))] = None,
) -> None:
    """Build environments."""
    for name in names or LISTS:
        if name not in LISTS:
            message = f"{name}: no such environment; there are {', '.join(LISTS)}"
            raise typer.BadParameter(message)
        typer.echo(build(name, folder))


if __name__ == "__main__":
    typer.run(main)
