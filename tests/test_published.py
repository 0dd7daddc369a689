import multiprocessing
import os
import pickle

import numpy as np
import pytest
from torchvision.datasets import cifar

from paribus.data.published import Cifar, Mnist
from paribus.data.samples import DataError
from serving import serving
from small_data import cifar10, mnist, picture


def test_cifar10(tmp_path):
    reader = Cifar(root=str(cifar10(tmp_path, each=20)), split={"val": 0.2})
    assert reader.classes[6] == "frog"
    assert [len(reader.split(name)) for name in ("train", "val", "test")] == [80, 20, 20]
    assert np.bincount([s.target for s in reader.split("val")]).tolist() == [2] * 10
    test = reader.split("test")
    assert (test[3].target, test[3].id) == (3, "test_batch:3")
    np.testing.assert_array_equal(test[3].image, picture(3, (32, 32), seed=503))  # channels and rows in order
    ids = {s.id for s in reader.split("train")} | {s.id for s in reader.split("val")}
    assert len(ids) == 100
    assert test.problems() == []
    assert [path.name for path in test.files()] == ["test_batch"]
    rest = test.without({0, 2})
    assert [rest[0].id, rest[1].id, len(rest)] == ["test_batch:1", "test_batch:3", 18]


def test_cifar_root_may_be_the_folder_itself(tmp_path):
    cifar10(tmp_path)
    reader = Cifar(root=str(tmp_path / "cifar-10-batches-py"), split={})
    assert len(reader.split("train")) == 100
    with pytest.raises(DataError, match=r"no 'val' split \(train, test\)"):
        reader.split("val")


def _open_at_once(barrier, root):
    barrier.wait()
    assert len(Cifar(root=str(root), split={}, download=True).split("train")) == 100


@pytest.mark.parametrize("place", [".", "cifar-10-batches-py"])
def test_several_processes_fetch_cifar_once(tmp_path, monkeypatch, place):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    # The files' own checksums are those of the real ones; the archive's is checked all the same.
    monkeypatch.setattr(cifar, "check_integrity", lambda path, md5=None: os.path.isfile(path))
    with serving(tmp_path / "served") as server:
        url, digest = server.archive(cifar10(tmp_path / "made"), "cifar-10-python")
        monkeypatch.setattr(cifar.CIFAR10, "url", url)
        monkeypatch.setattr(cifar.CIFAR10, "tgz_md5", digest)
        context = multiprocessing.get_context("fork")
        arguments = (context.Barrier(3), tmp_path / "data" / place)
        processes = [context.Process(target=_open_at_once, args=arguments) for _ in range(3)]
        for process in processes:
            process.start()
        for process in processes:
            process.join(60)
        assert [process.exitcode for process in processes] == [0, 0, 0]
        assert server.asked == ["/cifar-10-python.tar.gz"]


def test_cifar100_has_its_own_names(tmp_path):
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    names = [f"class{i}" for i in range(100)]
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": names, "coarse_label_names": ["x"]}))
    for part, count in (("train", 200), ("test", 100)):
        labels = [i % 100 for i in range(count)]
        batch = {
            "data": np.zeros((count, 3072), np.uint8),
            "fine_labels": labels,
            "coarse_labels": [0] * count,
        }
        (folder / part).write_bytes(pickle.dumps(batch, protocol=2))
    reader = Cifar(root=str(tmp_path), version=100, split={"val": 0.5})
    assert reader.classes == tuple(names)
    assert [len(reader.split(n)) for n in ("train", "val", "test")] == [100, 100, 100]
    assert sorted(s.target for s in reader.split("val")) == list(range(100))


def test_cifar_messages(tmp_path):
    with pytest.raises(
        DataError, match=r"lacks batches.meta.*Unpack cifar-10-python.tar.gz in .*download=true"
    ):
        Cifar(root=str(tmp_path))
    cifar10(tmp_path)
    path = tmp_path / "cifar-10-batches-py" / "test_batch"
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(DataError, match=r"test_batch cannot be read .*download it again"):
        Cifar(root=str(tmp_path)).split("test")
    batch = {"data": np.zeros((4, 3072), np.uint8), "labels": [0, 1, 2, 17]}
    path.write_bytes(pickle.dumps(batch, protocol=2))
    with pytest.raises(DataError, match="4 images, 4 labels up to 17, where there are 10 classes"):
        Cifar(root=str(tmp_path)).split("test")
    path.write_bytes(pickle.dumps({"pictures": 1}, protocol=2))
    with pytest.raises(DataError, match="no CIFAR batches"):
        Cifar(root=str(tmp_path)).split("test")


def test_cifar_as_python_2_pickled_it(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, 3072).astype(np.uint8)
    cifar10(tmp_path)
    (tmp_path / "cifar-10-batches-py" / "test_batch").write_bytes(
        b"\x80\x02}(U\x04datacnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01K\x01M\x00\x0c\x86cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xff"
        b"J\xff\xff\xff\xffK\x00tb\x89T\x00\x0c\x00\x00" + pixels.tobytes() + b"tbU\x06labels]K\x03au."
    )
    (sample,) = Cifar(root=str(tmp_path)).split("test")
    assert sample.target == 3
    np.testing.assert_array_equal(sample.image, pixels.reshape(3, 32, 32).transpose(1, 2, 0))


class Evil:
    def __reduce__(self):
        return os.system, ("echo evil",)


def test_cifar_runs_no_code_of_a_pickle(tmp_path):
    cifar10(tmp_path)
    (tmp_path / "cifar-10-batches-py" / "test_batch").write_bytes(pickle.dumps({"data": Evil()}))
    with pytest.raises(DataError, match=r"holds posix.system, no plain array"):
        Cifar(root=str(tmp_path)).split("test")


@pytest.mark.parametrize("folder", ["", "raw", "MNIST/raw"])
@pytest.mark.parametrize("zipped", [True, False])
def test_mnist(tmp_path, folder, zipped):
    mnist(tmp_path / folder, zipped=zipped)
    reader = Mnist(root=str(tmp_path), split={"val": 0.25})
    assert reader.classes == tuple("0123456789")
    assert [len(reader.split(name)) for name in ("train", "val", "test")] == [30, 10, 20]
    sample = reader.split("test")[13]
    assert (sample.image.shape, sample.image.dtype) == ((28, 28, 3), np.uint8)
    assert (sample.target, sample.id) == (3, "t10k:13")
    assert sample.image[:, 0, 0].tolist() == [0] * 4 + [200] * 4 + [0] * 20


def test_fashion_mnist_is_the_same_format(tmp_path):
    mnist(tmp_path / "FashionMNIST" / "raw")
    assert Mnist(root=str(tmp_path), version="fashion").classes[9] == "ankle boot"
    with pytest.raises(DataError, match=r"MNIST \(digits\) is not there"):
        Mnist(root=str(tmp_path))


def test_mnist_messages(tmp_path):
    with pytest.raises(DataError, match=r"lacks train-images-idx3-ubyte, .*Put them there.*download=true"):
        Mnist(root=str(tmp_path))
    mnist(tmp_path)
    path = tmp_path / "t10k-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(DataError, match=r"t10k-images-idx3-ubyte.gz cannot be read"):
        Mnist(root=str(tmp_path)).split("test")
    (tmp_path / "t10k-labels-idx1-ubyte.gz").rename(path)
    mnist(tmp_path / "other")
    (tmp_path / "other" / "t10k-labels-idx1-ubyte.gz").rename(tmp_path / "t10k-labels-idx1-ubyte.gz")
    with pytest.raises(DataError, match="does not begin as an idx file of 3 dimension"):
        Mnist(root=str(tmp_path)).split("test")
