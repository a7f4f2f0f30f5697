"""Several files of a folder, written together: all are replaced, or none."""
import contextlib
import functools
import os
import pathlib
import shutil
import uuid
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def replaced_together(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields an empty folder; what is written there takes its place in `folder` as the block ends.

    If the block raises, `folder` is as it was before. Other files in it stay.

    Args:
      folder: created if needed.

    Raises:
      OSError: the folder can't be written; a folder is where a file is to be.
    """
    existed = folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    staging = folder / f".{uuid.uuid4().hex[:12]}.tmp"      # inside, so that it is on the same file system
    try:
        staging.mkdir()
        yield staging
        _move_all(staging, folder)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        if not existed:
            with contextlib.suppress(OSError):              # another program has put something there
                folder.rmdir()
        raise
    shutil.rmtree(staging, ignore_errors=True)


def _move_all(staging: pathlib.Path, folder: pathlib.Path) -> None:
    """Moves the files, once all of them are on the disk; moves none if it is interrupted."""
    files = [file for file in sorted(staging.rglob("*")) if file.is_file()]
    for file in files:
        target = folder / file.relative_to(staging)
        if target.is_dir():
            raise IsADirectoryError(f"{target}: a folder, where a file is to be written; move it away")
        with open(file, "rb+") as handle:
            os.fsync(handle.fileno())
    with contextlib.ExitStack() as undo:
        for number, file in enumerate(files):
            target = folder / file.relative_to(staging)
            target.parent.mkdir(parents=True, exist_ok=True)
            undo.callback(_keep(target, staging / f"{number}.old"))
            os.replace(file, target)
        undo.pop_all()


def _keep(target: pathlib.Path, old: pathlib.Path) -> Callable[[], None]:
    """Keeps a file that is about to be replaced under another name; returns what puts it back."""
    if not os.path.lexists(target):
        return functools.partial(target.unlink, missing_ok=True)
    try:
        os.link(target, old, follow_symlinks=False)
    except OSError:                                         # a file system without hard links
        shutil.copy2(target, old, follow_symlinks=False)
    return functools.partial(os.replace, old, target)
