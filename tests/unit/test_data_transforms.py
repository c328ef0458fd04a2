from __future__ import annotations

import pytest
import torch

from vldistill.data.transforms import augment, to_float

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def pictures(count: int = 6, size: int = 32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=generator)


def test_to_float_is_the_formula():
    images = pictures()
    expected = (images.double() / 255 - torch.tensor(MEAN).double().view(3, 1, 1)) / torch.tensor(STD).double().view(
        3, 1, 1
    )
    result = to_float(images, MEAN, STD)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result.double(), expected, rtol=0, atol=1e-6)


def test_augment_is_a_function_of_images_and_seed():
    images = pictures()
    before = images.clone()
    first = augment(images, 3)
    assert first.shape == images.shape and first.dtype == torch.uint8
    assert torch.equal(first, augment(images, 3))
    assert not torch.equal(first, augment(images, 4))
    assert torch.equal(images, before)


def test_augment_leaves_the_global_generator_alone():
    torch.manual_seed(11)
    expected = torch.rand(4)
    torch.manual_seed(11)
    augment(pictures(), 3)
    assert torch.equal(torch.rand(4), expected)
    torch.manual_seed(12)
    assert torch.equal(augment(pictures(), 3), augment(pictures(), 3))


def test_each_image_gets_its_own_draw():
    same = pictures(1).expand(8, 3, 32, 32)
    assert len({image.numpy().tobytes() for image in augment(same, 0)}) > 4


def test_half_of_the_images_are_flipped():
    """A picture dark on the left: after augmentation about half have the dark side on the right."""
    halves = torch.zeros(200, 3, 16, 16, dtype=torch.uint8)
    halves[..., 8:] = 200
    sides = augment(halves, 1).float().mean((1, 2))
    flipped = (sides[:, :4].mean(1) > sides[:, -4:].mean(1)).float().mean()
    assert 0.35 < flipped < 0.65


@pytest.mark.parametrize("images", [pictures().float(), pictures()[0], pictures()[:, :1]])
def test_augment_refuses_other_inputs(images: torch.Tensor):
    with pytest.raises(ValueError, match=r"expected uint8 \(B, 3, S, S\)"):
        augment(images, 0)


def test_augment_of_nothing_is_nothing():
    assert augment(torch.empty(0, 3, 8, 8, dtype=torch.uint8), 0).shape == (0, 3, 8, 8)
