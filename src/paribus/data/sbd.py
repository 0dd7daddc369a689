"""Masks of the Semantic Boundaries Dataset (Hariharan et al. 2011), MATLAB files of a class number a pixel."""

from pathlib import Path

import numpy as np

from paribus.data.files import SampleError


def read_sbd_mask(path: Path) -> np.ndarray:
    """``GTcls.Segmentation`` of a file in ``cls/``: uint8 ``[H, W]``, 0 background, 1 to 20 as in Pascal VOC.

    Raises:
        SampleError: the file is missing, damaged, or another kind of MATLAB file.
    """
    from scipy.io import loadmat  # 0.2 s, which no other set needs

    if not path.is_file():
        raise SampleError(path, "file is missing")
    try:
        content = loadmat(path, variable_names=["GTcls"])
    except Exception as error:  # a damaged file raises whatever scipy stumbles on
        raise SampleError(path, f"cannot be decoded ({error})") from error
    try:
        return np.ascontiguousarray(content["GTcls"]["Segmentation"][0, 0])
    except (KeyError, IndexError, ValueError):
        raise SampleError(
            path, "holds no GTcls.Segmentation", "take the masks from the folder `cls` of SBD, not `inst`"
        ) from None
