"""U-Net: any image size, any pyramid, every parameter trained, and it learns to segment."""

import pytest
import torch
from torch.nn import functional as F

from paribus.models.backbones.convnet import ConvNet
from paribus.models.backbones.timm import Timm
from paribus.models.normalization import Norm
from paribus.models.segmentation.unet import UNet

BACKBONES = {
    "convnet": lambda **k: ConvNet(channels=[8, 12, 16], **k),
    "test_resnet": lambda **k: Timm(name="test_resnet", **k),
    "test_efficientnet": lambda **k: Timm(name="test_efficientnet", **k),
    "test_convnext": lambda **k: Timm(name="test_convnext", **k),  # finest stride 4
    "test_vit": lambda **k: Timm(name="test_vit", **k),  # three maps of stride 16
    "vgg11": lambda **k: Timm(name="vgg11", **k),  # finest stride 1
    "swin": lambda **k: Timm(name="swin_tiny_patch4_window7_224", **k),
    "dilated": lambda **k: Timm(name="test_resnet", output_stride=8, **k),
}


def unet(backbone, classes=4, norm: Norm | None = None, **arguments):
    torch.manual_seed(0)
    return UNet(
        backbone=BACKBONES[backbone](**arguments),
        num_classes=classes,
        decoder_channels=[24, 16, 16, 8, 8],
        norm=norm,
    )


@pytest.mark.parametrize("backbone", BACKBONES)
def test_any_size_in_the_same_size_out(backbone):
    model = unet(backbone).eval()
    with torch.no_grad():
        for size in [(64, 64), (65, 97), (31, 50)]:
            logits = model(torch.randn(1, 3, *size))
            assert logits.shape == (1, 4, *size)
            assert logits.isfinite().all()


@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_parameter_has_a_gradient_from_a_batch_of_one(backbone):
    model = unet(backbone)
    logits = model(torch.randn(1, 3, 64, 80))
    logits.square().mean().backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]


@pytest.mark.parametrize("norm", ["batch", "group", "layer", "instance", "local_response", "none"])
def test_every_norm(norm):
    model = unet("convnet", norm=norm)
    logits = model(torch.randn(2, 3, 40, 40))
    logits.square().mean().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())
    assert 1e-4 < logits.square().mean() < 1e4


def test_padding_is_cropped_where_it_was_added():
    model = unet("test_resnet").eval()
    x = torch.randn(1, 3, 50, 70)
    padded = F.pad(x, (0, 26, 0, 14))
    with torch.no_grad():
        assert torch.allclose(model(x), model(padded)[..., :50, :70], atol=1e-6)


def test_the_decoder_joins_every_map_of_the_backbone():
    model = unet("test_resnet").eval()
    x = torch.randn(1, 3, 64, 64)
    before = model(x)
    for index in range(len(model.backbone.channels)):
        hook = model.backbone.register_forward_hook(
            lambda _, __, maps, index=index: [m * (i != index) for i, m in enumerate(maps)]
        )
        assert not torch.allclose(model(x), before, atol=1e-6)
        hook.remove()


def test_a_short_list_of_channels_repeats_its_last():
    model = UNet(backbone=Timm(name="test_vit"), num_classes=2, decoder_channels=[16, 8])
    assert [block[1][0].out_channels for block in model.blocks] == [16, 8, 8, 8, 8, 8]


def test_a_decoder_needs_channels():
    with pytest.raises(ValueError, match=r"model\.decoder_channels is empty"):
        UNet(backbone=ConvNet(channels=[4]), num_classes=2, decoder_channels=[])


def test_it_learns_to_segment_squares():
    model = unet("convnet", classes=2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)

    def scene():
        images, masks = 0.3 * torch.randn(4, 3, 48, 48), torch.zeros(4, 48, 48, dtype=torch.long)
        for image, mask in zip(images, masks, strict=True):
            y, x = torch.randint(0, 30, (2,))
            image[:, y : y + 16, x : x + 16] += 1
            mask[y : y + 16, x : x + 16] = 1
        return images, masks

    for _ in range(40):
        images, masks = scene()
        loss = F.cross_entropy(model(images), masks)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    images, masks = scene()
    found = model.eval()(images).argmax(1)
    assert (found & masks).sum() / (found | masks).sum() > 0.8
