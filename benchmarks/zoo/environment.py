"""Environments of their own for packages of the index, and runs of the zoo's programs in them."""
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence

from benchmarks.zoo.network import Package

ROOT = pathlib.Path(__file__).parents[2]        # of this project, which is not installed there
OURS = ("numpy>=2.0",)                          # what haiku_mup imports beside a package's own JAX and Haiku


class Environment:
    """A virtual environment in a temporary folder; use it in a with statement.

    uv makes it if it is installed, else venv and pip; both keep what they download in caches of their own.
    """

    def __enter__(self) -> "Environment":
        """Makes the environment, empty."""
        self._folder = tempfile.mkdtemp(prefix="zoo-")
        self.python = str(pathlib.Path(self._folder, "bin", "python"))
        self._uv = shutil.which("uv")
        _run([self._uv, "venv", "-q", "--python", sys.executable, self._folder] if self._uv
             else [sys.executable, "-m", "venv", self._folder])
        return self

    def __exit__(self, *_: object) -> None:
        """Removes the environment."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def install(self, package: Package) -> None:
        """Installs a package without its dependencies, and what its networks need of these.

        Raises:
          RuntimeError: an installation that fails, with its last lines.
        """
        self._install([*package.jax, *OURS, *package.requires])
        self._install(["--no-deps", f"{package.name}=={package.version}"])

    def _install(self, requirements: Sequence[str]) -> None:
        pip = [self._uv, "pip", "install", "-q", "--python", self.python] if self._uv else [
            self.python, "-m", "pip", "install", "-q"]
        _run([*pip, *requirements])

    def run(self, *arguments: str) -> str:
        """Runs Python there, with this checkout's packages; returns what it prints.

        Raises:
          RuntimeError: a program that fails, with its last lines.
        """
        return _run([self.python, *arguments], cwd=ROOT, env={
            **os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "3"})


def _run(command: Sequence[str | None], **kwargs: object) -> str:
    """Runs a command; returns what it prints."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, encoding="utf-8",
                          check=False, **kwargs)
    if done.returncode:
        last = "\n".join((done.stdout + done.stderr).splitlines()[-15:])
        raise RuntimeError(f"{' '.join(map(str, command))}:\n{last}")
    return done.stdout
