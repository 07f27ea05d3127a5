"""Artifacts on disk: read whole or refused, written whole or not at all.

A write goes to a temporary name beside its target, is synced to the disk, and then renamed.
Knows Parquet and files; the tables themselves are for `treepo.schemas` to judge.
"""

from __future__ import annotations

import errno
import itertools
import os
import re
import shutil
import socket
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from treepo.errors import UserError, WorkError

_ROWS_PER_GROUP = 1 << 16
# What a disk does to a write, and what an owner does; all else is a program's doing.
_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS}
_OWNER = {errno.EACCES, errno.EPERM}
# The birth of a process where /proc does not show it.
_UNSEEN = "0"
_writes = itertools.count()


def read_table(path: Path, check: Callable[[pa.Table, str], pa.Table]) -> pa.Table:
    """Read one Parquet file and return what `check(table, name)` makes of it.

    Raises UserError naming the file where it is missing, damaged or not Parquet, and whatever
    `check` raises.
    """
    try:
        # Not `pq.read_table`: that would add columns for folders named like `tree=3`.
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            table = file.read()
        table.validate(full=True)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path}: cannot be read as Parquet ({reason:.200})") from None
    return check(table, str(path))


def write_table(table: pa.Table, path: Path) -> None:
    """Write a Parquet file, atomically; equal tables give equal bytes.

    Raises as `atomic` does.
    """
    # Neither a table's chunks nor notes in its schema (pandas' version, say) reach the file.
    plain = table.combine_chunks().replace_schema_metadata(None)
    with atomic(path) as temporary:
        pq.write_table(
            plain,
            temporary,
            row_group_size=_ROWS_PER_GROUP,
            compression="zstd",
            write_page_checksum=True,
        )


def write_text(text: str, path: Path) -> None:
    """Write UTF-8 text, atomically. Raises as `atomic` does."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")


@contextmanager
def atomic(path: Path) -> Generator[Path]:
    """Yield a temporary path beside `path`; what the block puts there becomes `path` at its end.

    The block makes a file or a directory at the temporary path; missing folders above are made.
    After an exception, or a crash at any moment, `path` is what it was; only for a directory that
    replaces another is there a moment without either, and then the next write to `path` restores
    the old one before it starts. A file never replaces a directory. Links are replaced, never
    written through. Where `path` is itself the temporary of a write under way, the block writes
    there: the outer write makes it whole.
    Raises WorkError naming `path` where the disk refuses (full, read-only), UserError where nothing
    can be written at `path` (no permission, a file above it, a folder in the place of the file);
    other exceptions of the block pass through.
    """
    owner = f"{socket.gethostname()}-{os.getpid()}-{_birth(os.getpid())}"
    if path.name.startswith(".") and owner in path.name:
        yield path
        return
    if not path.name:  # "." or "/"
        raise UserError(f"{path}: is a folder")
    temporary = path.with_name(f".{path.name}.{owner}-{next(_writes)}.partial")
    _make_room(path, temporary)
    try:
        yield temporary
        _sync_all(temporary)
        _rename(temporary, path)
        _sync(path.parent)
    except BaseException as error:
        _remove(temporary)
        if isinstance(error, OSError) and _is_about(error, path):
            raise _refusal(error, path) from error
        if os.strerror(errno.ENOSPC) in str(error):  # safetensors has an exception of its own
            raise WorkError(f"{path}: cannot be written ({os.strerror(errno.ENOSPC)})") from error
        raise


def _make_room(path: Path, temporary: Path) -> None:
    """Make the folder of `path`, and remove what killed writers left there."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _clear_leftovers(path)
        temporary.unlink(missing_ok=True)  # refuses a name that is too long
    except OSError as error:
        raise _refusal(error, path) from error


def _refusal(error: OSError, path: Path) -> UserError | WorkError:
    kind = WorkError if error.errno in _DISK else UserError
    return kind(f"{path}: cannot be written ({os.strerror(error.errno or 0)})")


def _is_about(error: OSError, path: Path) -> bool:
    """Whether this write was refused; the block may have stumbled over some other file."""
    about = error.filename
    ours = about is None or path.parent in (Path(str(about)), *Path(str(about)).parents)
    return error.errno in _DISK | _OWNER and ours


def _rename(temporary: Path, path: Path) -> None:
    """Put `temporary` in the place of `path`."""
    if not temporary.is_dir():
        if path.is_dir() and not path.is_symlink():
            raise UserError(f"{path}: is a folder")
        os.replace(temporary, path)
        return
    # A directory cannot replace another in one call: set the old one aside, under a name from
    # which a later write brings it back should this process die here.
    aside = temporary.with_suffix(".previous")
    if os.path.lexists(path):
        os.rename(path, aside)
    try:
        os.rename(temporary, path)
    except BaseException:
        if os.path.lexists(aside):
            os.rename(aside, path)
        raise
    _sync(path.parent)
    _remove(aside)


def _clear_leftovers(path: Path) -> None:
    """Remove what killed writers of `path` left on this machine, or put back what they set aside.

    Another host's leftovers stay: whether their writer still lives cannot be seen from here.
    """
    host = re.escape(socket.gethostname())
    name = re.compile(rf"\.{re.escape(path.name)}\.{host}-(\d+)-(\w+)-\d+\.(partial|previous)")
    for found in sorted(path.parent.iterdir()):
        match = name.fullmatch(found.name)
        if match is None or _is_alive(int(match[1]), match[2]):
            continue
        if match[3] == "previous" and not os.path.lexists(path):
            os.rename(found, path)
        else:
            _remove(found)


def _is_alive(process: int, birth: str) -> bool:
    """Whether a process still lives. Its number alone may by now be another's, or this one's."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return _birth(process) in (birth, _UNSEEN)


def _birth(process: int) -> str:
    """What no other process of the same number has: this boot of the machine, the start in it."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")
        stat = Path(f"/proc/{process}/stat").read_bytes()
    except OSError:
        return _UNSEEN
    start = stat.rpartition(b")")[2].split()[19]  # field 22; the name in brackets may hold anything
    return f"{boot[:8]}_{start.decode()}"


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _sync_all(path: Path) -> None:
    """Sync a file, or a directory with everything below it."""
    if path.is_dir():
        for below in sorted(path.iterdir()):
            if not below.is_symlink():
                _sync_all(below)
    _sync(path)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
