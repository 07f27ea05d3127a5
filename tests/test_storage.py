from __future__ import annotations

import errno
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from forests import forests, large_forest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from treepo.errors import UserError, WorkError
from treepo.forest import Forest
from treepo.schemas import check_forest
from treepo.storage import atomic, read_table, write_table, write_text


def as_is(table: pa.Table, where: str) -> pa.Table:
    return table


def fail_fsync(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """From here on the disk is full (or whatever `number` says) at every fsync."""

    def fsync(handle: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fsync)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def fill(folder: Path, text: str) -> None:
    (folder / "deep").mkdir(parents=True)
    (folder / "a.txt").write_text(text)
    (folder / "deep" / f"{text}.txt").write_text(text)


def replace_and_fail(path: Path, error: BaseException) -> None:
    with atomic(path) as temporary:
        if path.is_dir():
            fill(temporary, "half")
        else:
            temporary.write_text("half")
        raise error


@given(forests())
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_forest_comes_back_as_it_was_written(tmp_path: Path, forest: Forest) -> None:
    path = tmp_path / "forest.parquet"
    write_table(forest.to_arrow(), path)
    assert read_table(path, check_forest).equals(forest.to_arrow())


def test_equal_tables_give_equal_bytes(tmp_path: Path) -> None:
    table = large_forest(count=8, width=4, depth=5, segment=3).to_arrow()
    chunked = pa.concat_tables([table.slice(0, 50), table.slice(50)])
    noted = table.replace_schema_metadata({"pandas": "9.9"})
    for index, variant in enumerate([table, chunked, noted]):
        write_table(variant, tmp_path / f"{index}.parquet")
    first, *others = [path.read_bytes() for path in sorted(tmp_path.iterdir())]
    assert all(other == first for other in others)


def test_columns_do_not_come_from_folder_names(tmp_path: Path) -> None:
    path = tmp_path / "tree=3" / "x.parquet"
    write_table(pa.table({"a": [1]}), path)
    assert read_table(path, as_is).column_names == ["a"]


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    path = tmp_path / "absent.parquet"
    with pytest.raises(UserError) as caught:
        read_table(path, as_is)
    assert str(caught.value) == f"{path}: no such file"
    with pytest.raises(UserError, match="cannot be read as Parquet"):
        read_table(tmp_path, as_is)


def test_a_refusal_names_the_file_and_column(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    write_table(pa.table({"tree": [1]}), path)
    with pytest.raises(UserError, match="column 'prompt_id' is missing") as caught:
        read_table(path, check_forest)
    assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize("content", [b"", b"PAR1", b"{}\n", b"PAR1" + b"\0" * 100 + b"PAR1"])
def test_what_is_not_parquet_is_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.parquet"
    path.write_bytes(content)
    with pytest.raises(UserError, match="cannot be read as Parquet") as caught:
        read_table(path, as_is)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_a_truncated_file_is_refused_wherever_it_was_cut(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    write_table(large_forest(count=2, width=2, depth=2, segment=3).to_arrow(), path)
    whole = path.read_bytes()
    for length in range(0, len(whole), 97):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match="cannot be read as Parquet"):
            read_table(path, as_is)


def test_flipped_bits_in_the_data_are_noticed(tmp_path: Path) -> None:
    table = large_forest(count=4, width=4, depth=4, segment=50).to_arrow()
    path = tmp_path / "x.parquet"
    write_table(table, path)
    whole = path.read_bytes()
    chunk = pq.ParquetFile(path).metadata.row_group(0).column(6)  # the tokens
    begin = chunk.data_page_offset + 200  # beyond the page's header
    for place in range(begin, chunk.data_page_offset + chunk.total_compressed_size // 2, 501):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        with pytest.raises(UserError, match="cannot be read as Parquet"):
            read_table(path, as_is)


def test_text_is_written_as_it_is_and_folders_are_made(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "x.txt"
    write_text("é\r\n\n", path)
    assert path.read_bytes() == "é\r\n\n".encode()
    assert names(path.parent) == ["x.txt"]


def test_an_exception_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    write_text("old", path)
    with pytest.raises(KeyboardInterrupt):
        replace_and_fail(path, KeyboardInterrupt())
    assert path.read_text() == "old"
    assert names(tmp_path) == ["x.txt"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_full_disk_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    path = tmp_path / "x.parquet"
    write_table(pa.table({"a": [1, 2]}), path)
    fail_fsync(monkeypatch, number)
    with pytest.raises(WorkError) as caught:
        write_table(pa.table({"a": [3]}), path)
    assert str(caught.value) == f"{path}: cannot be written ({os.strerror(number)})"
    assert read_table(path, as_is)["a"].to_pylist() == [1, 2]
    assert names(tmp_path) == ["x.parquet"]


def test_a_disk_that_is_full_while_arrow_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.parquet"
    write = pq.write_table

    def write_to_full_disk(table: pa.Table, where: Path, **how: Any) -> None:
        with pa.OSFile("/dev/full", "wb") as full:  # a stream: arrow would delete a named file
            write(table, full, **how)

    monkeypatch.setattr(pq, "write_table", write_to_full_disk)
    with pytest.raises(WorkError, match=f"{path}: cannot be written .No space left"):
        write_table(pa.table({"a": [1]}), path)


def test_other_errors_of_the_block_pass_through(tmp_path: Path) -> None:
    foreign = PermissionError(errno.EACCES, "no", "/elsewhere/input.txt")
    for error in (foreign, FileNotFoundError(errno.ENOENT, "no"), ValueError("no")):
        with pytest.raises(type(error)) as caught, atomic(tmp_path / "x"):
            raise error
        assert caught.value is error


def test_a_block_that_writes_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic(tmp_path / "x"):
        pass


def test_a_directory_replaces_another_whole(tmp_path: Path) -> None:
    path = tmp_path / "policy"
    for text in ("old", "new"):
        with atomic(path) as temporary:
            fill(temporary, text)
    assert names(path / "deep") == ["new.txt"]
    assert (path / "a.txt").read_text() == "new"
    assert names(tmp_path) == ["policy"]


def test_a_directory_replaces_a_file_but_a_file_no_directory(tmp_path: Path) -> None:
    path = tmp_path / "x"
    write_text("file", path)
    with atomic(path) as temporary:
        fill(temporary, "old")
    with pytest.raises(UserError, match=f"^{path}: is a folder$"):
        write_text("file", path)
    assert names(path / "deep") == ["old.txt"]
    assert names(tmp_path) == ["x"]


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        (".", "is a folder"),
        ("..", "is a folder"),
        ("/", "is a folder"),
        ("file/x", "cannot be written (File exists)"),
        ("/proc/x/y", "cannot be written (No such file or directory)"),
        ("x" * 300, "cannot be written (File name too long)"),
    ],
)
def test_where_nothing_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, reason: str
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    (here / "file").write_text("old")
    with pytest.raises(UserError) as caught:
        write_text("new", Path(place))
    assert str(caught.value) == f"{place}: {reason}"
    assert names(here) == ["file"]


def test_a_folder_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(folder: Path) -> None:
        raise PermissionError(errno.EACCES, "no", str(folder))

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(UserError, match=r": cannot be written \(Permission denied\)$"):
        write_text("new", tmp_path / "x")


def test_a_failed_directory_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "policy"
    with atomic(path) as temporary:
        fill(temporary, "old")
    with pytest.raises(ValueError, match="stop"):
        replace_and_fail(path, ValueError("stop"))
    fail_fsync(monkeypatch, errno.ENOSPC)
    with pytest.raises(WorkError), atomic(path) as temporary:
        fill(temporary, "half")
    assert names(path / "deep") == ["old.txt"]
    assert names(tmp_path) == ["policy"]


def test_a_failed_second_rename_brings_the_old_directory_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "policy"
    with atomic(path) as temporary:
        fill(temporary, "old")
    rename = os.rename

    def fail_new(source: Path, target: Path) -> None:
        if str(source).endswith(".partial"):
            raise OSError(errno.ENOSPC, "full")
        rename(source, target)

    monkeypatch.setattr(os, "rename", fail_new)
    with pytest.raises(WorkError), atomic(path) as temporary:
        fill(temporary, "new")
    assert names(path / "deep") == ["old.txt"]
    assert names(tmp_path) == ["policy"]


def test_a_link_is_replaced_and_not_written_through(tmp_path: Path) -> None:
    cached = tmp_path / "cached"
    cached.write_text("old")
    (tmp_path / "x").symlink_to(cached)
    write_text("new", tmp_path / "x")
    assert cached.read_text() == "old"
    assert (tmp_path / "x").read_text() == "new"


WRITER = """
import sys
from pathlib import Path
from treepo.storage import atomic
with atomic(Path(sys.argv[1])) as temporary:
    temporary.write_text("half")
    print(temporary.name, flush=True)
    input()
"""


@contextmanager
def writer(path: Path) -> Generator[tuple[int, str]]:
    """A process in the middle of a write to `path`: its number, the name of its temporary."""
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        yield process.pid, process.stdout.readline().strip()
        process.kill()


@pytest.fixture
def dead(tmp_path_factory: pytest.TempPathFactory) -> tuple[int, str]:
    """A writer that is no longer alive, as it left a file `x`."""
    with writer(tmp_path_factory.mktemp("elsewhere") / "x") as writing:
        pass
    return writing


def left(dead: tuple[int, str], name: str, suffix: str = "partial", number: int = 0) -> str:
    """What `dead` would have left of `name`, had it had that number."""
    host = socket.gethostname()
    start = f".x.{host}-{dead[0]}-"
    assert dead[1].startswith(start)
    rest = dead[1].removeprefix(start).removesuffix("partial")
    return f".{name}.{host}-{number or dead[0]}-{rest}{suffix}"


def test_leftovers_of_the_dead_go_and_those_of_the_living_stay(
    tmp_path: Path, dead: tuple[int, str]
) -> None:
    others = [left(dead, "y"), ".x.elsewhere-1-0-0.partial"]
    for name in (left(dead, "x"), *others):
        (tmp_path / name).write_text("half")
    with writer(tmp_path / "x") as (_, living):
        write_text("new", tmp_path / "x")
        assert names(tmp_path) == sorted([*others, living, "x"])


def test_leftovers_go_where_another_process_has_the_number_now(
    tmp_path: Path, dead: tuple[int, str]
) -> None:
    with writer(tmp_path / "y") as (other, living):
        for number in (other, os.getpid()):
            fill(tmp_path / left(dead, "x", "previous", number), "old")
            fill(tmp_path / left(dead, "x", number=number), "half")
            with pytest.raises(ValueError, match="stop"), atomic(tmp_path / "x"):
                raise ValueError("stop")
            assert names(tmp_path) == [living, "x"]
            assert names(tmp_path / "x" / "deep") == ["old.txt"]
            shutil.rmtree(tmp_path / "x")


def test_a_write_within_a_write_makes_no_temporary_of_its_own(tmp_path: Path) -> None:
    # A kill would leave it behind for good: nobody writes to its name again.
    with atomic(tmp_path / "x") as outer, atomic(outer) as inner:
        inner.write_text("new")
        assert names(tmp_path) == [outer.name]
    assert names(tmp_path) == ["x"]


def test_a_directory_set_aside_by_a_crash_comes_back(tmp_path: Path, dead: tuple[int, str]) -> None:
    fill(tmp_path / left(dead, "policy", "previous"), "old")
    fill(tmp_path / left(dead, "policy"), "half")
    with pytest.raises(ValueError, match="stop"), atomic(tmp_path / "policy"):
        raise ValueError("stop")
    assert names(tmp_path) == ["policy"]
    assert names(tmp_path / "policy" / "deep") == ["old.txt"]


@given(st.data())
@settings(max_examples=60)
def test_damage_anywhere_is_refused_or_harmless(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged.parquet"
    table = large_forest(count=1, width=2, depth=2, segment=2).to_arrow()
    write_table(table, path)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    message = f"{path}: fine"
    try:
        read_table(path, check_forest)
    except UserError as error:  # anything else fails the test
        message = str(error)
    assert re.fullmatch(f"{path}: .*", message)
