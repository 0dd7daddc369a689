import numpy as np
import pytest
from scipy import io, sparse

from paribus.data.files import SampleError
from paribus.data.sbd import read_sbd_mask


def sbd_mask(path, mask, name="GTcls"):
    """A file as the Semantic Boundaries Dataset has them, boundaries and all."""
    boundaries = np.empty((20, 1), object)
    for label in range(20):
        boundaries[label, 0] = sparse.csc_matrix(mask == label + 1)
    content = {"Boundaries": boundaries, "Segmentation": mask, "CategoriesPresent": np.unique(mask[mask > 0])}
    path.parent.mkdir(parents=True, exist_ok=True)
    io.savemat(path, {name: content}, do_compression=True)
    return path


def test_a_mask_as_it_was_written(tmp_path):
    mask = np.arange(21, dtype=np.uint8).repeat(2).reshape(6, 7)
    found = read_sbd_mask(sbd_mask(tmp_path / "a.mat", mask))
    assert found.dtype == np.uint8
    assert found.flags.c_contiguous
    np.testing.assert_array_equal(found, mask)


def test_torchvision_reads_the_same(tmp_path):
    from torchvision.datasets import SBDataset

    mask = np.random.default_rng(0).integers(0, 21, (6, 7), np.uint8)
    path = sbd_mask(tmp_path / "cls" / "a.mat", mask)
    (tmp_path / "train.txt").write_text("a\n")
    theirs = SBDataset(str(tmp_path), mode="segmentation")._get_target(str(path))
    np.testing.assert_array_equal(read_sbd_mask(path), np.asarray(theirs))


def test_what_is_no_mask_is_named(tmp_path):
    mask = np.zeros((6, 7), np.uint8)
    with pytest.raises(SampleError, match=r"a.mat: file is missing"):
        read_sbd_mask(tmp_path / "a.mat")
    with pytest.raises(SampleError, match=r"holds no GTcls.Segmentation; take .* `cls` of SBD, not `inst`"):
        read_sbd_mask(sbd_mask(tmp_path / "inst.mat", mask, name="GTinst"))
    io.savemat(tmp_path / "other.mat", {"GTcls": mask})
    with pytest.raises(SampleError, match=r"other.mat: holds no GTcls.Segmentation"):
        read_sbd_mask(tmp_path / "other.mat")
    path = sbd_mask(tmp_path / "b.mat", mask)
    for length in (0, 100, path.stat().st_size - 20):
        path.write_bytes(path.read_bytes()[:length] if length else b"")
        with pytest.raises(SampleError, match=r"b.mat: cannot be decoded"):
            read_sbd_mask(path)
        sbd_mask(path, mask)
    path.write_text("<html>404 Not Found</html>" * 40)
    with pytest.raises(SampleError, match=r"b.mat: cannot be decoded"):
        read_sbd_mask(path)
