"""Network files that others publish: named by a flag, kept in data/, or downloaded once with their checksum."""

from __future__ import annotations

import hashlib
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from utils.atomic import WriteError, replacing

DATA = Path(__file__).resolve().parents[1] / "data"
TIMEOUT = 30  # seconds without a byte


class ModelUnavailable(RuntimeError):
    """A network file is not there and could not be downloaded; the message says what to do."""


@dataclass(frozen=True)
class ModelFile:
    """A published file. It is kept as data/{folder}/{name}; flag: the command-line flag that names another copy."""

    name: str
    folder: str
    flag: str
    url: str
    sha256: str


def model_path(file: ModelFile, given: Path | None = None, data: Path = DATA) -> Path:
    """Path of a network file: the one given, else the one in `data`, downloaded there when it is missing.

    A file that the user names is taken as it is; a downloaded one appears only with the right checksum.

    Raises:
        FileNotFoundError: `given` does not exist.
        ModelUnavailable: the download failed, its checksum is wrong, or it could not be stored.
    """
    if given is not None:
        if not given.is_file():
            raise FileNotFoundError(f"{given}: no such file ({file.flag} names a copy of {file.name}; without the flag "
                                    "it is downloaded)")
        return given
    path = data / file.folder / file.name
    if not path.is_file():
        _download(file, path)
    return path


def _download(file: ModelFile, path: Path) -> None:
    advice = f"fetch {file.url} on a machine with network and name it with {file.flag}"
    digest = hashlib.sha256()
    try:
        with replacing(path) as temporary, open(temporary, "wb") as target, \
                urllib.request.urlopen(file.url, timeout=TIMEOUT) as answer:
            total = int(answer.headers.get("Content-Length") or 0) or None
            with tqdm(total=total, desc=f"Downloading {file.name}", unit="B", unit_scale=True) as bar:
                while block := answer.read(1 << 16):
                    target.write(block)
                    digest.update(block)
                    bar.update(len(block))
            if digest.hexdigest() != file.sha256:
                raise ModelUnavailable(
                    f"{file.name}: what {file.url} sent has the SHA-256 {digest.hexdigest()}, wanted {file.sha256}; it "
                    f"was not kept. Try again, or name a copy that you trust with {file.flag}")
    except WriteError as error:
        cause = error.__cause__
        if isinstance(cause, (urllib.error.URLError, TimeoutError, ConnectionError)):
            reason = getattr(cause, "reason", None) or cause
            raise ModelUnavailable(f"{file.name}: could not be downloaded ({reason}); {advice}") from error
        raise ModelUnavailable(f"{path}: could not be stored ({cause}); {advice}") from error
