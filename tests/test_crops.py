"""Boxes cut out of images and warped."""

import torch
from torch.nn import functional as F

from paribus.models.detection.crops import crops


def test_a_box_of_the_crops_size_is_cut_out_as_it_is():
    images = torch.randn(2, 3, 20, 30)
    boxes = [
        torch.tensor([[4.0, 5.0, 12.0, 13.0], [10.0, 0.0, 18.0, 8.0]]),
        torch.tensor([[0.0, 0.0, 8.0, 8.0]]),
    ]
    found = crops(images, boxes, 8, 0)
    expected = [images[0, :, 5:13, 4:12], images[0, :, 0:8, 10:18], images[1, :, 0:8, 0:8]]
    torch.testing.assert_close(found, torch.stack(expected))


def test_context_is_what_lies_around():
    images = torch.randn(1, 3, 20, 30)
    found = crops(images, [torch.tensor([[4.0, 5.0, 12.0, 13.0]])], 12, 2)
    torch.testing.assert_close(found[0], images[0, :, 3:15, 2:14])


def test_beyond_the_image_is_nothing():
    found = crops(torch.ones(1, 1, 20, 30), [torch.tensor([[0.0, 0.0, 8.0, 8.0]])], 16, 4)[0, 0]
    assert (found[5:, 5:] == 1).all()
    assert (found[:3] == 0).all()
    assert (found[:, :3] == 0).all()


def test_a_box_is_stretched():
    """Of a plane its values in the middle of what becomes a pixel."""
    y, x = torch.meshgrid(torch.arange(40.0), torch.arange(40.0), indexing="ij")
    found = crops(torch.stack([x, y])[None], [torch.tensor([[8.0, 4.0, 24.0, 36.0]])], 8, 0)[0]
    torch.testing.assert_close(found[0, 3], 8 + torch.arange(8) * 2 + 0.5)
    torch.testing.assert_close(found[1, :, 3], 4 + torch.arange(8) * 4 + 1.5)


def test_shrinking_passes_over_no_pixel():
    """A checkerboard becomes grey, where single samples would see black or white."""
    board = (torch.arange(64)[:, None] + torch.arange(64)) % 2
    found = crops(board[None, None].float(), [torch.tensor([[0.0, 0.0, 64.0, 64.0]])], 8, 0)
    torch.testing.assert_close(found, torch.full((1, 1, 8, 8), 0.5))
    image = torch.randn(1, 2, 64, 64)
    found = crops(image, [torch.tensor([[0.0, 0.0, 64.0, 64.0]])], 16, 0)
    torch.testing.assert_close(found, F.avg_pool2d(image, 4))


def test_no_box_no_crop():
    assert crops(torch.ones(2, 3, 9, 9), [torch.zeros(0, 4), torch.zeros(0, 4)], 8, 1).shape == (0, 3, 8, 8)


def test_float32_under_autocast():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert crops(torch.randn(1, 3, 9, 9), [torch.tensor([[0.0, 0, 9, 9]])], 8, 1).dtype == torch.float32
