"""The pinned packages the drawings come from: fetched once, checked, and read without unpacking."""

import base64
import hashlib
import shutil
import subprocess  # noqa: S404 - npm is the only door to these packages
import tarfile
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from stylear.errors import BadInput, MissingPart


@dataclass(frozen=True)
class Package:
    """One npm package, pinned by version and by the sha512 `integrity` that npm publishes for it."""

    name: str
    version: str
    integrity: str

    @property
    def filename(self) -> str:
        """The file name `npm pack` gives it: `@scope/name` at 1.2.3 is `scope-name-1.2.3.tgz`."""
        return f"{self.name.removeprefix('@').replace('/', '-')}-{self.version}.tgz"


def fetch(package: Package, downloads: Path) -> Path:
    """Returns the checked archive of `package` in `downloads`, asking npm for it only when it is not there.

    Raises MissingPart when npm is needed but absent or fails, BadInput when a checksum differs.
    """
    archive = downloads / package.filename
    if not archive.exists():
        downloads.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=downloads, prefix=".npm-") as scratch:
            _npm_pack(package, Path(scratch), downloads)
            _check(package, Path(scratch) / package.filename)
            (Path(scratch) / package.filename).replace(archive)
    _check(package, archive)
    return archive


def read_files(archive: Path, wanted: Callable[[str], bool]) -> dict[str, bytes]:
    """Reads the regular files of an npm archive whose path inside the package satisfies `wanted`.

    Nothing is written to disk, so no member, whatever its name or link, can reach outside the archive.
    """
    files = {}
    with tarfile.open(archive, "r:gz") as tar:
        for member in tar:
            path = member.name.partition("/")[2]
            if member.isfile() and wanted(path):
                files[path] = tar.extractfile(member).read()
    return files


def read_file(archive: Path, path: str) -> bytes:
    """Reads one file of an npm archive; MissingPart when the package does not hold it."""
    files = read_files(archive, path.__eq__)
    if path not in files:
        raise MissingPart(f"{archive.name} has no {path}: the pinned version and packages.json disagree.")
    return files[path]


def _npm_pack(package: Package, folder: Path, downloads: Path) -> None:
    wish = f"{package.name}@{package.version}"
    by_hand = f"put {package.filename} into {downloads} by hand (see --downloads)"
    npm = shutil.which("npm")
    if npm is None:
        raise MissingPart(f"npm is needed to fetch {wish}, and is not here: install Node.js, or {by_hand}.")
    command = [npm, "pack", wish, "--ignore-scripts", "--silent", "--pack-destination", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - pinned names only
    if done.returncode or not (folder / package.filename).exists():
        reason = done.stderr.strip() or done.stdout.strip() or "it gave no reason"
        raise MissingPart(f"npm could not fetch {wish}: check the network, or {by_hand}.\nnpm said: {reason}")


def _check(package: Package, archive: Path) -> None:
    digest = hashlib.sha512(archive.read_bytes()).digest()
    found = "sha512-" + base64.b64encode(digest).decode()
    if found != package.integrity:
        raise BadInput(
            f"{archive.name} is not the pinned package: delete it and fetch it again.\n"
            f"expected {package.integrity}\nfound    {found}"
        )
