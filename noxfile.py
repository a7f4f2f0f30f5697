"""Runs the suite on the installed package: for each Python found, and with the oldest versions."""
import pathlib
import shutil
import sys
import tarfile
import tempfile

import nox

nox.options.default_venv_backend = "uv"
nox.options.download_python = "never"
nox.options.error_on_missing_interpreters = False


@nox.session(python=["3.11", "3.12", "3.13"])
def newest(session: nox.Session) -> None:
    """Tests the newest releases that this Python resolves to."""
    suite(session)


@nox.session(python="3.11")
def oldest(session: nox.Session) -> None:
    """Tests the lower bounds in setup.py; what these need in turn is the newest that fits."""
    suite(session, "--resolution=lowest-direct")


def suite(session: nox.Session, *options: str) -> None:
    """Builds sdist and wheel, installs the wheel, and runs the sdist's tests outside of the checkout."""
    session.install("-r", "setup.py", "--extra", "test", *options)
    with tempfile.TemporaryDirectory() as folder:
        session.run(sys.executable, "-m", "build", "--outdir", folder, external=True, silent=True)
        sdist, wheel = (next(pathlib.Path(folder).glob(f"*.{end}")) for end in ("tar.gz", "whl"))
        session.install("--no-deps", str(wheel))
        session.run("uv", "pip", "list", external=True)
        with tarfile.open(sdist) as archive:
            archive.extractall(folder, filter="data")
        source = pathlib.Path(folder, sdist.name.removesuffix(".tar.gz"))
        shutil.rmtree(source / "haiku_mup")                 # so that the tests can only import the wheel's
        with session.chdir(source):
            session.run("python", "-m", "pytest", *session.posargs)
