"""Downloads: from a server of our own on this machine, through torchvision's tools as they are."""

import hashlib
import multiprocessing
import threading
from pathlib import Path

import pytest
from torchvision.datasets import utils

from paribus.data.download import fetch, one_at_a_time
from paribus.data.samples import DataError
from serving import serving


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serving(tmp_path / "served") as server:
        yield server


def content(root: Path, *files: str) -> Path:
    for name in files:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return root


def files(root: Path) -> list[str]:
    return sorted(str(p.relative_to(root)) for p in root.rglob("*") if p.is_file() and p.name[0] != ".")


@pytest.mark.parametrize("form", ["tar", "gztar", "zip"])
def test_what_lies_beside_the_folder_comes_to_lie_in_root(tmp_path, server, form):
    made = content(tmp_path / "made", "kit/2012/images/a.jpg", "kit/2012/lists/train.txt", "kit/readme")
    root = tmp_path / "data" / "deep"
    archives = {"images": server.archive(made, form=form)}
    fetch(root, archives)
    assert files(root) == ["images/a.jpg", "lists/train.txt"]
    assert {path.name for path in root.iterdir()} == {"images", "lists", ".download.lock"}
    fetch(root, archives)
    assert len(server.asked) == 1


def test_only_what_is_absent_is_fetched_and_nothing_is_replaced(tmp_path, server):
    images = server.archive(content(tmp_path / "1", "images/a.jpg", "readme"), "images")
    masks = server.archive(content(tmp_path / "2", "masks/a.png", "readme"), "masks")
    root = content(tmp_path / "data", "images/mine.jpg")
    (root / "readme").write_text("mine")
    fetch(root, {"images": images, "masks": masks})
    assert server.asked == ["/masks.tar.gz"]
    assert files(root) == ["images/mine.jpg", "masks/a.png", "readme"]
    assert (root / "readme").read_text() == "mine"


def _fetch_at_once(barrier, root, archives):
    barrier.wait()
    fetch(root, archives)
    assert files(root) == ["images/a.jpg"]


def test_several_processes_fetch_once(tmp_path, server):
    archives = {"images": server.archive(content(tmp_path / "made", "images/a.jpg"))}
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(3)
    started = [
        context.Process(target=_fetch_at_once, args=(barrier, tmp_path / "data", archives)) for _ in range(3)
    ]
    for process in started:
        process.start()
    for process in started:
        process.join(60)
    assert [process.exitcode for process in started] == [0, 0, 0]
    assert server.asked == ["/set.tar.gz"]


def test_a_download_that_was_cut_off_leaves_no_half_set(tmp_path, server, monkeypatch):
    made = content(tmp_path / "made", *(f"images/{i}.jpg" for i in range(4)), "lists/train.txt")
    root, archives = tmp_path / "data", {"images": server.archive(made)}
    unpack = utils.extract_archive

    def killed(archive, to_path, remove_finished):
        unpack(archive, to_path, remove_finished)
        (Path(to_path) / "images" / "3.jpg").unlink()
        (Path(to_path) / "images" / "left over.jpg").touch()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(utils, "extract_archive", killed)
        with pytest.raises(KeyboardInterrupt):
            fetch(root, archives)
    assert files(root / "images") == []
    fetch(root, archives)
    assert files(root) == [*(f"images/{i}.jpg" for i in range(4)), "lists/train.txt"]
    assert len(server.asked) == 1  # the archive itself was whole


def test_the_folder_comes_last_so_that_where_it_is_all_is(tmp_path, server, monkeypatch):
    made = content(tmp_path / "made", "images/0.jpg", "annotations/0.png", "lists/train.txt")
    root, archives = tmp_path / "data", {"images": server.archive(made)}
    rename, moved = Path.rename, []

    def killed(path, target):
        moved.append(path.name)
        if len(moved) == 3:
            raise KeyboardInterrupt
        return rename(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", killed)
        with pytest.raises(KeyboardInterrupt):
            fetch(root, archives)
    assert moved[2] == "images"
    fetch(root, archives)
    assert files(root) == ["annotations/0.png", "images/0.jpg", "lists/train.txt"]


def test_messages(tmp_path, server):
    url, digest = server.archive(content(tmp_path / "made", "images/a.jpg"))
    root = tmp_path / "data"
    with pytest.raises(DataError, match=r"set.tar.gz holds no masks: correct `data.reader.archives`"):
        fetch(root, {"masks": (url, digest)})
    with pytest.raises(
        DataError, match=r"gone.tar could not be fetched \(HTTP Error 404.* so that images lies in"
    ):
        fetch(root, {"images": (url.replace("set.tar.gz", "gone.tar"), digest)})
    with pytest.raises(DataError, match=r"could not be fetched \(File not found or corrupted"):
        fetch(root, {"images": (url, digest[::-1])})
    (server.folder / "broken.tar.gz").write_bytes((server.folder / "set.tar.gz").read_bytes()[:50])
    broken = hashlib.md5((server.folder / "broken.tar.gz").read_bytes()).hexdigest()
    with pytest.raises(DataError, match=r"broken.tar.gz could not be fetched"):
        fetch(root, {"images": (url.replace("set.tar", "broken.tar"), broken)})
    assert not (root / "images").exists()


def test_a_set_that_is_there_is_not_written_to(tmp_path):
    root = content(tmp_path / "data", "images/a.jpg")
    fetch(root, {"images": ("http://127.0.0.1:1/none.tar", "")})
    assert [path.name for path in root.iterdir()] == ["images"]


def test_one_at_a_time(tmp_path):
    inside, most = [], []

    def work():
        with one_at_a_time(tmp_path / "data"):
            inside.append(1)
            most.append(len(inside))
            threading.Event().wait(0.01)
            inside.pop()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1, 1, 1, 1]
