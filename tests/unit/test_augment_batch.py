from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode, v2

from vldistill.data.augment_batch import MAGNITUDE, SPACE, _operated, augment_batch, crop_and_flip, crop_boxes
from vldistill.runtime.randomness import generator

NAMES = {
    "identity": "Identity",
    "shear x": "ShearX",
    "shear y": "ShearY",
    "translate x": "TranslateX",
    "translate y": "TranslateY",
    "rotate": "Rotate",
    "brightness": "Brightness",
    "colour": "Color",
    "contrast": "Contrast",
    "sharpness": "Sharpness",
    "posterize": "Posterize",
    "solarize": "Solarize",
    "autocontrast": "AutoContrast",
    "equalize": "Equalize",
}


def pictures(count: int, size: int = 24) -> torch.Tensor:
    """Smooth random pictures, uint8 (count, 3, size, size)."""
    coarse = np.random.default_rng(0).integers(0, 256, (count, 5, 5, 3), dtype=np.uint8)
    grown = [np.asarray(Image.fromarray(one).resize((size, size), Image.Resampling.BICUBIC)) for one in coarse]
    return torch.from_numpy(np.stack(grown)).permute(0, 3, 1, 2).contiguous()


@pytest.mark.parametrize("number", range(len(SPACE)), ids=[name for name, _, _ in SPACE])
def test_every_operation_is_torchvisions_at_this_magnitude(number: int) -> None:
    name, signed, _ = SPACE[number]
    theirs = v2.RandAugment(num_ops=2, magnitude=MAGNITUDE)
    scale, has_sign = theirs._AUGMENTATION_SPACE[NAMES[name]]
    assert has_sign == signed and len(theirs._AUGMENTATION_SPACE) == len(SPACE)
    images = pictures(4)
    magnitudes = scale(theirs.num_magnitude_bins, 24, 24)
    magnitude = 0.0 if magnitudes is None else float(magnitudes[MAGNITUDE])
    signs = torch.tensor([1, -1, -1, 1])
    ours = _operated(images, torch.full((4,), number), signs)
    for image, sign, got in zip(images, signs.tolist(), ours):
        expected = theirs._apply_image_or_video_transform(
            image, NAMES[name], magnitude * (sign if signed else 1), interpolation="nearest", fill=theirs._fill
        )
        assert isinstance(expected, torch.Tensor)
        assert (got.int() - expected.int()).abs().max() <= 1  # a magnitude of float32 there, of float64 here


def test_operations_reach_their_own_images_alone() -> None:
    images = pictures(6)
    operations = torch.tensor([0, 12, 0, 11, 5, 0])
    out = _operated(images, operations, torch.ones(6, dtype=torch.int64))
    still = operations == 0
    assert torch.equal(out[still], images[still])
    assert all(not torch.equal(a, b) for a, b in zip(out[~still][1:], images[~still][1:]))


def test_a_crop_is_that_of_pillow_but_for_rounding() -> None:
    images = pictures(5, 32)
    boxes = torch.tensor([[0, 0, 32, 32], [3, 5, 24, 20], [8, 0, 20, 26], [0, 9, 23, 23], [10, 10, 22, 22]]).double()
    flips = torch.tensor([False, True, False, True, False])
    ours = crop_and_flip(images, boxes, flips).float()
    assert torch.equal(ours[0], images[0].float())
    for image, (top, left, height, width), flip, got in zip(images, boxes.int().tolist(), flips.tolist(), ours):
        photo = Image.fromarray(image.permute(1, 2, 0).numpy())
        cut = photo.resize((32, 32), Image.Resampling.BICUBIC, (left, top, left + width, top + height))
        expected = torch.from_numpy(np.array(cut)).permute(2, 0, 1).float()
        expected = expected.flip(2) if flip else expected
        inner = (got - expected).abs()[:, 3:-3, 3:-3]  # beside the edge torch sees what is beyond it, Pillow does not
        assert inner.mean() < 1.0 and inner.max() < 12


def test_boxes_have_the_distribution_of_torchvisions() -> None:
    boxes = crop_boxes(4000, 40, 40, generator("boxes"))
    top, left, height, width = boxes.unbind(1)
    assert (height >= 1).all() and (top + height <= 40).all() and (left + width <= 40).all() and (left >= 0).all()
    picture = torch.zeros(3, 40, 40)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        crop = v2.RandomResizedCrop(40, scale=(0.5, 1.0), interpolation=InterpolationMode.BICUBIC)
        draws = [crop.make_params([picture]) for _ in range(4000)]
    theirs = torch.tensor([[d["top"], d["left"], d["height"], d["width"]] for d in draws]).double()
    for mine, other in zip(boxes.T, theirs.T):
        assert abs(mine.mean() - other.mean()) < 0.5 and abs(mine.std() - other.std()) < 0.5


def test_the_same_seed_gives_the_same_batch_and_leaves_the_generators_alone(untouched_generator: None) -> None:
    images = pictures(8)
    first = augment_batch(images, 3)
    assert torch.equal(first, augment_batch(images, 3)) and first.dtype == torch.uint8
    other = augment_batch(images, 4)
    assert sum(not torch.equal(a, b) for a, b in zip(first, other)) >= 6
    with pytest.raises(ValueError, match="expected uint8"):
        augment_batch(images.float(), 3)
