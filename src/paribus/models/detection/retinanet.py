"""RetinaNet (Lin et al. 2017, https://arxiv.org/abs/1708.02002): torchvision's, on any backbone."""

from functools import partial

from torch import Tensor
from torchvision.models import detection
from torchvision.models.detection.retinanet import RetinaNetHead

from paribus.models.backbones import Backbone, dense
from paribus.models.detection.fpn import Anchors, FeaturePyramid, image_list, octaves
from paribus.models.layers import pad_to_multiple
from paribus.models.normalization import Norm, make_norm


class RetinaNet(detection.RetinaNet):
    """images [B, C, H, W], normalized -> in training, with targets, the losses {"classification",
    "bbox_regression"}; in evaluation for each image {"boxes" [N, 4] xyxy in its pixels, "scores" [N],
    "labels" [N] from 0}.

    torchvision's head, matching, losses and selection; its resizing and normalizing of images is left out.

    pyramid_channels: of the pyramid and the heads.
    levels: the pyramid's strides; None is 8 (or the backbone's finest above) doubled up to 128, the paper's
        P3 to P7.
    anchor_scale: the smallest anchor of a level is anchor_scale * its stride; the paper's 4 makes 32 pixels
        at P3.
    anchors_per_octave, anchor_ratios: sizes a level, heights / widths.
    norm: of the heads. The paper has none; from scratch the heads hardly start without one.
    score_thresh, nms_thresh, detections_per_img, candidates: the least score, the IoU that suppresses, the
        most detections of an image, the most candidates of a level before suppression.
    """

    def __init__(
        self,
        *,
        backbone: Backbone,
        num_classes: int,
        pyramid_channels: int = 256,
        levels: list[int] | None = None,
        anchor_scale: float = 4.0,
        anchors_per_octave: int = 3,
        anchor_ratios: tuple[float, ...] = (0.5, 1.0, 2.0),
        norm: Norm | None = "group",
        score_thresh: float = 0.05,
        nms_thresh: float = 0.5,
        detections_per_img: int = 100,
        candidates: int = 1000,
    ):
        pyramid = FeaturePyramid(
            channels=backbone.channels,
            strides=backbone.strides,
            levels=levels or octaves(backbone.strides, 8, 128),
            out_channels=pyramid_channels,
            extra="conv",
        )
        anchors = Anchors(
            levels=pyramid.levels,
            scale=anchor_scale,
            per_octave=anchors_per_octave,
            ratios=anchor_ratios,
        )
        per_cell = anchors.num_anchors_per_location()[0]
        super().__init__(
            pyramid,
            num_classes,
            anchor_generator=anchors,
            head=RetinaNetHead(
                pyramid_channels, per_cell, num_classes, norm_layer=partial(make_norm, norm) if norm else None
            ),
            score_thresh=score_thresh,
            nms_thresh=nms_thresh,
            detections_per_img=detections_per_img,
            topk_candidates=candidates,
        )
        del self.transform
        self.backbone = dense(backbone)
        self.pyramid = pyramid

    def forward(self, images: Tensor, targets: list[dict[str, Tensor]] | None = None):
        height, width = images.shape[-2:]
        images = pad_to_multiple(images, max(self.backbone.strides))
        maps = self.pyramid(self.backbone(images))
        # float32, because boxes are decoded in the type of the deltas.
        outputs = {name: output.float() for name, output in self.head(maps).items()}
        anchors = self.anchor_generator(image_list(images, height, width), maps)
        if self.training:
            return self.compute_loss(targets, outputs, anchors)
        per_level = [m.shape[-2] * m.shape[-1] * self.head.classification_head.num_anchors for m in maps]
        return self.postprocess_detections(
            {name: list(output.split(per_level, dim=1)) for name, output in outputs.items()},
            [list(a.split(per_level)) for a in anchors],
            [(height, width)] * len(images),
        )

    def raw(self, images: Tensor) -> dict[str, Tensor]:
        """What is computed for every image alike, before boxes are selected: for counting operations."""
        return self.head(self.pyramid(self.backbone(pad_to_multiple(images, max(self.backbone.strides)))))
