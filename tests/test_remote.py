"""Reproduction in another clone: artifacts come from a DVC remote, a folder or S3, by hash."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tasks import remote
from tasks.hashing import content_hash
from tasks.lineage import Lineage
from tasks.remote import fetch
from tasks.reproduce import reproduce
from tasks.run import EXPERIMENT, opened, perform, stage
from tasks.versioning import commit
from tasks.workspace import Workspace
from treepo.errors import WorkError
from treepo.storage import atomic

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]
RUN = Path("runs/smoke")
SCORES = RUN / "iterations/000002/scores.parquet"
ADVANTAGES = RUN / "iterations/000002/advantages.parquet"


def shell(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


def save(message: str) -> None:
    shell("git", "add", "-A")
    shell("git", "-c", "user.name=t", "-c", "user.email=t@localhost", "commit", "-qm", message)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Clone A: a finished run, known to git and DVC, not yet pushed; tests must not change it."""
    folder = tmp_path_factory.mktemp("a") / "project"
    folder.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("DVC_NO_ANALYTICS", "1")
        shutil.copytree(ROOT / "params", "params")
        shutil.copy(ROOT / "dvc.yaml", "dvc.yaml")
        Path(".gitignore").write_text("/runs/\n")
        shell("git", "init", "-q")
        from dvc.repo import Repo

        Repo.init(".").close()
        workspace = Workspace(Path("runs"), "smoke")
        params = EXPERIMENT.resolve(workspace)
        with opened(workspace, params) as context:
            for name in ("resolve", "prepare", "train", "evaluate", "report"):
                for part, k in stage(name, params):
                    perform(part, context, k)
        commit("experiments", "smoke")
        yield folder


def pushed(made: Path, patch: pytest.MonkeyPatch, remote: str) -> Path:
    """Push clone A's artifacts to a remote; returns clone B, which has none."""
    from dvc.repo import Repo

    source, clone = made.parent / "source", made.parent / "clone"
    for old in (source, clone):
        shutil.rmtree(old, ignore_errors=True)
    shutil.copytree(made, source)
    patch.chdir(source)
    (source / ".dvc/config").write_text(f'[core]\n    remote = store\n[remote "store"]\n{remote}')
    with Repo() as repo:
        assert repo.push() > 0
    save("a run")
    shell("git", "clone", "-q", str(source), str(clone))
    patch.chdir(clone)
    return clone


def there() -> set[str]:
    return {path.relative_to(RUN).as_posix() for path in RUN.rglob("*") if path.is_file()}


def test_a_folder_as_remote(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = tmp_path / "store"
    clone = pushed(made, monkeypatch, f"    url = {store}\n")
    assert reproduce(ADVANTAGES, chain=False) == "identical"
    parts = ("forest", "scores", "advantages")
    assert there() == {"lineage.jsonl", *(f"iterations/000002/{p}.parquet" for p in parts)}
    for name in ("metrics.json", "index.html"):
        assert reproduce(RUN / "report" / name, chain=False) == "identical"
    assert content_hash(RUN / "report") == content_hash(made / RUN / "report")

    digest = Lineage(RUN).get("iterations/000002/scores.parquet").hash  # pyright: ignore[reportOptionalMemberAccess]
    place = f"files/md5/{digest[:2]}/{digest[2:]}"
    whole = (store / place).read_bytes()
    for damaged in (b"damaged" + whole[7:], None):
        shutil.rmtree(clone / ".dvc/cache", ignore_errors=True)
        SCORES.unlink(missing_ok=True)
        (store / place).unlink()
        if damaged:
            (store / place).write_bytes(damaged)
        before = there()
        with pytest.raises(WorkError, match=r"scores\.parquet: .*cannot be reached, lacks it"):
            reproduce(ADVANTAGES, chain=False)
        assert there() == before
        (store / place).write_bytes(whole)
        assert reproduce(ADVANTAGES, chain=False) == "identical"


def test_s3_as_remote(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("dvc_s3")
    server_class = pytest.importorskip("moto.server").ThreadedMotoServer
    boto3 = pytest.importorskip("boto3")
    keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
    for name, value in {**keys, "AWS_DEFAULT_REGION": "us-east-1"}.items():
        monkeypatch.setenv(name, value)
    server = server_class(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    try:
        boto3.client("s3", endpoint_url=url).create_bucket(Bucket="artifacts")
        pushed(made, monkeypatch, f"    url = s3://artifacts/dvc\n    endpointurl = {url}\n")
        assert reproduce(ADVANTAGES, chain=False) == "identical"
    finally:
        server.stop()
    SCORES.unlink()
    shutil.rmtree(".dvc/cache", ignore_errors=True)
    with pytest.raises(WorkError, match=r"scores\.parquet: .*cannot be reached"):
        reproduce(ADVANTAGES, chain=False)


def locked(folder: Path, out: str, listing: Mapping[str, str] | bytes) -> Path:
    """A project whose dvc.lock knows one folder, and whose cache holds the files of its listing."""

    def cached(content: bytes, ending: str = "") -> str:
        digest = hashlib.md5(content).hexdigest() + ending
        place = folder / ".dvc/cache/files/md5" / digest[:2] / digest[2:]
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
        return digest

    (folder / ".dvc").mkdir(parents=True)
    (folder / ".dvc/config").write_text("[core]\n    no_scm = true\n")
    if not isinstance(listing, bytes):
        files = [{"md5": cached(text.encode()), "relpath": name} for name, text in listing.items()]
        listing = json.dumps(files).encode()
    digest = cached(listing, ".dir")
    (folder / "dvc.yaml").write_text(
        json.dumps({"stages": {"make": {"cmd": "true", "outs": [out]}}})
    )
    made = {"cmd": "true", "outs": [{"path": out, "hash": "md5", "md5": digest}]}
    (folder / "dvc.lock").write_text(json.dumps({"schema": "2.0", "stages": {"make": made}}))
    return folder


@pytest.mark.parametrize("name", ["../../../profile", "policy/../../../../profile", "{}/profile"])
def test_a_listing_that_leads_out_of_its_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / "profile").write_text("mine")
    name = name.format(tmp_path)
    project = locked(tmp_path / "project", "runs/smoke", {"data": "1", name: "theirs"})
    for path in ("runs/smoke", "runs/smoke/data"):
        with pytest.raises(WorkError, match=f"runs/smoke: .*leads out of it, to '{name}'"):
            fetch([project / path])
    with pytest.raises(WorkError, match="leads out"):
        fetch([project / "runs/smoke/data", tmp_path / "other"])
    assert (tmp_path / "profile").read_text() == "mine"
    assert not (project / "runs").exists()


def test_outputs_outside_of_the_project_stay_missing(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    project = locked(tmp_path / "project", str(outside), {"profile": "theirs"})
    fetch([project / "runs/smoke", outside / "profile"])
    assert not outside.exists()


def test_what_is_there_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = locked(tmp_path / "project", "runs/smoke", {"a": "1", "b/c": "2"}) / "runs/smoke"
    written: list[str] = []

    def noted(path: Path) -> AbstractContextManager[Path]:
        written.append(path.relative_to(run).as_posix())
        return atomic(path)

    monkeypatch.setattr(remote, "atomic", noted)
    fetch([run / "b", run, run / "a"])
    assert written == ["b/c", "a"]
    assert [(run / name).read_text() for name in ("a", "b/c")] == ["1", "2"]


def test_what_another_run_has_is_found(tmp_path: Path) -> None:
    """Inputs from beside a run are named from it: an evaluation's policy, say."""
    project = locked(tmp_path, "runs/smoke", {"data": "1"})
    fetch([project / "runs/evaluations/smoke/../../smoke/data"])
    assert (project / "runs/smoke/data").read_text() == "1"


@pytest.mark.parametrize("listing", [b"", b"{", b"[1]", b'[{"md5": "0"}]', b"\xff"])
def test_a_listing_that_is_none(tmp_path: Path, listing: bytes) -> None:
    project = locked(tmp_path, "runs/smoke", listing)
    with pytest.raises(WorkError, match=r"runs/smoke: .*its listing .* is none"):
        fetch([project / "runs/smoke/data"])
