"""Downloads of data sets: whole or not at all, and once, however many processes ask."""

import fcntl
import shutil
import tarfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from paribus.data.samples import DataError


@contextmanager
def one_at_a_time(folder: Path) -> Iterator[None]:
    """Holds the folder, made if need be, for this process; others wait. A process that dies lets go."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".download.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def fetch(root: Path, archives: Mapping[str, tuple[str, str]]) -> None:
    """Puts below `root` what is not there yet of a set that comes as tar or zip archives.

    archives: the address and the MD5 of each, by a folder that it holds, at any depth. That folder and
    what lies beside it come to lie in `root`; what is already there is left alone.

    torchvision's tools, which do the work here, unpack into the place itself: a process that is killed
    leaves half a set that passes for whole, and two processes write the same files. Here an archive is
    unpacked aside, and its folder moved last: where that is, all is.

    Raises:
        DataError: an archive cannot be fetched, is damaged, or does not hold its folder.
    """
    if all((root / folder).exists() for folder in archives):  # `root` may be read-only
        return
    from torchvision.datasets.utils import download_and_extract_archive

    with one_at_a_time(root):
        aside = root / ".download"
        for folder, (url, md5) in archives.items():
            if (root / folder).exists():
                continue
            unpacked = aside / "unpacked"
            shutil.rmtree(unpacked, ignore_errors=True)  # of a process that was killed
            try:
                download_and_extract_archive(url, str(aside), str(unpacked), md5=md5)
            except (OSError, EOFError, RuntimeError, tarfile.TarError, zipfile.BadZipFile) as error:
                raise DataError(
                    f"{url} could not be fetched ({error}). Fetch and unpack it yourself, so that {folder} lies "
                    f"in {root.absolute()}."
                ) from error
            found = min(unpacked.rglob(folder), key=lambda path: len(path.parts), default=None)
            if found is None:
                raise DataError(f"{url} holds no {folder}: correct `data.reader.archives`.")
            for entry in sorted(found.parent.iterdir(), key=lambda path: path == found):
                if not (root / entry.name).exists():
                    entry.rename(root / entry.name)
        shutil.rmtree(aside, ignore_errors=True)
