import math

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


# Cutout


@pytest.mark.parametrize("cutout", [1, 2, 5, 8])
def test_cutout_is_a_square_of_zeros_where_the_image_reaches(cutout):
    """Against a loop over pixels, on images that are not square, in any memory format."""
    height, width = 5, 7
    x = torch.randn(300, 3, height, width, generator=torch.Generator().manual_seed(0))
    augment = Augment(cutout=cutout)
    drawn = augment.draw(len(x), torch.Generator().manual_seed(1))
    before = x.clone()
    out = augment.cut_out(x, drawn)
    assert torch.equal(x, before)
    assert torch.equal(out, augment.cut_out(x.contiguous(memory_format=torch.channels_last), drawn))
    kept = []
    for image, result, (_, _, _, v, u) in zip(x, out, drawn.tolist(), strict=True):
        expected = image.clone()
        row, column = math.floor(v / 2**32 * height), math.floor(u / 2**32 * width)
        for i in range(row - cutout // 2, row - cutout // 2 + cutout):
            for j in range(column - cutout // 2, column - cutout // 2 + cutout):
                if 0 <= i < height and 0 <= j < width:
                    expected[:, i, j] = 0
        assert torch.equal(result, expected)
        kept.append(int((result[0] != 0).sum()))
    assert min(kept) >= height * width - cutout**2
    assert (max(kept) > height * width - cutout**2) == (cutout > 1)  # some squares leave the image


def test_cutout_centres_are_uniform_over_the_pixels():
    augment = Augment(cutout=1)
    drawn = augment.draw(35_000, torch.Generator().manual_seed(0))
    out = augment.cut_out(torch.ones(35_000, 1, 5, 7), drawn)
    counts = (out[:, 0] == 0).sum(0).flatten().double()
    assert counts.sum() == 35_000
    assert ((counts - 1000) ** 2 / 1000).sum() < 78  # chi-square with 34 degrees of freedom: p < 3e-5


def test_cutout_adds_draws_and_changes_none():
    with_, without = (Augment(cutout=c).draw(50, torch.Generator().manual_seed(3)) for c in (4, 0))
    assert without.shape == (50, 3)
    assert torch.equal(with_[:, :3], without)
    x = images(batch=50)
    assert torch.equal(Augment(cutout=4).apply(x, with_), Augment().apply(x, without))
    normalised = torch.ones(50, 3, 5, 7)
    assert Augment().cut_out(normalised, without) is normalised


def test_impossible_values():
    with pytest.raises(InvalidValue, match="padding must be at least 0"):
        Augment(padding=-1)
    with pytest.raises(InvalidValue, match="Augment takes images"):
        Augment().apply(torch.zeros(3, 2), torch.zeros(3, 3, dtype=torch.int64))
    with pytest.raises(InvalidValue, match="cutout must be at least 0"):
        Augment(cutout=-1)
    drawn = torch.zeros(2, 5, dtype=torch.int64)
    with pytest.raises(InvalidValue, match="cutout=13 leaves nothing of images of 5×7 pixels; it must be below 13"):
        Augment(cutout=13).cut_out(torch.ones(2, 3, 5, 7), drawn)
    for place in (0, 2**32 - 1):  # the largest square that is let through leaves something
        drawn[:, 3:] = place
        assert Augment(cutout=12).cut_out(torch.ones(2, 3, 5, 7), drawn).any() == (place == 0)
