import pytest
import torch

from tasks.data import Augment
from tasks.errors import InvalidValue


def images(batch=6, channels=3, height=5, width=7):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (batch, channels, height, width), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("flip", [False, True])
def test_crop_and_flip_are_a_slice_of_the_padded_image(flip):
    x = images()
    augment = Augment(padding=2, flip=flip)
    drawn = augment.draw(len(x), torch.Generator().manual_seed(1))
    out = augment.apply(x, drawn)
    assert out.dtype == torch.uint8
    for image, result, (top, left, mirrored) in zip(x, out, drawn.tolist(), strict=True):
        padded = torch.zeros(3, 9, 11, dtype=torch.uint8)
        padded[:, 2:7, 2:9] = image
        expected = padded[:, top : top + 5, left : left + 7]
        assert torch.equal(result, expected.flip(2) if mirrored else expected)


def test_drawn_numbers_are_uniform_and_reproducible():
    augment = Augment(padding=4)
    drawn = augment.draw(9000, torch.Generator().manual_seed(0))
    assert torch.equal(drawn, augment.draw(9000, torch.Generator().manual_seed(0)))
    for column in (0, 1):
        counts = torch.bincount(drawn[:, column], minlength=9)
        assert len(counts) == 9  # 0 … 8
        assert (counts - 1000).abs().max() < 150
    assert drawn[:, 2].float().mean().item() == pytest.approx(0.5, abs=0.03)
    assert not Augment(flip=False).draw(100, torch.Generator())[:, 2].any()


def test_nothing_to_do_is_the_identity():
    x = images()
    augment = Augment(padding=0, flip=False)
    assert torch.equal(augment.apply(x, augment.draw(len(x), torch.Generator())), x)


def test_impossible_values():
    with pytest.raises(InvalidValue, match="padding must be at least 0"):
        Augment(padding=-1)
    with pytest.raises(InvalidValue, match="Augment takes images"):
        Augment().apply(torch.zeros(3, 2), torch.zeros(3, 3, dtype=torch.int64))
