"""Network files: the user's, the stored, and downloads that go well and wrong; the server is a file."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from tracking.model_files import ModelFile, ModelUnavailable, model_path

CONTENT = b"network" * 1000


@pytest.fixture
def published(tmp_path: Path) -> ModelFile:
    source = tmp_path / "server" / "net.task"
    source.parent.mkdir()
    source.write_bytes(CONTENT)
    return ModelFile("net.task", "nets", "--net", source.as_uri(), hashlib.sha256(CONTENT).hexdigest())


def test_download_happens_once(published: ModelFile, tmp_path: Path) -> None:
    path = model_path(published, data=tmp_path / "data")
    assert path == tmp_path / "data" / "nets" / "net.task" and path.read_bytes() == CONTENT
    (tmp_path / "server" / "net.task").unlink()
    assert model_path(published, data=tmp_path / "data") == path


def test_given_file_is_taken_as_it_is(published: ModelFile, tmp_path: Path) -> None:
    mine = tmp_path / "mine.task"
    mine.write_bytes(b"other")
    assert model_path(published, mine, tmp_path / "data") == mine
    with pytest.raises(FileNotFoundError, match=r"gone\.task: no such file \(--net names a copy of net\.task"):
        model_path(published, tmp_path / "gone.task", tmp_path / "data")


def test_wrong_checksum_keeps_nothing(published: ModelFile, tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match=r"net\.task: what .* sent has the SHA-256 .*, wanted 00.* --net"):
        model_path(replace(published, sha256="00" * 32), data=tmp_path / "data")
    assert list((tmp_path / "data").rglob("*.*")) == []


def test_failed_download_says_what_to_do(published: ModelFile, tmp_path: Path) -> None:
    gone = replace(published, url=(tmp_path / "nowhere.task").as_uri())
    with pytest.raises(ModelUnavailable, match=r"net\.task: could not be downloaded .* fetch file:.* with --net"):
        model_path(gone, data=tmp_path / "data")
    assert list((tmp_path / "data").rglob("*.*")) == []


def test_folder_that_cannot_be_written(published: ModelFile, tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file in the way")
    with pytest.raises(ModelUnavailable, match=r"net\.task: could not be stored"):
        model_path(published, data=tmp_path / "data")
