"""Bytes to numbers, in the one place where they change."""

import torch

from vitscale.data.device import Normaliser, normalise


def test_normalising_maps_bytes_to_minus_one_and_one():
    images = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16).expand(2, 3, 16, 16)
    out = normalise(images, "cpu", torch.float32)
    assert torch.allclose(out[0, 0].flatten(), (torch.arange(256) / 255 - 0.5) / 0.5, atol=1e-6)
    assert (out.min(), out.max()) == (-1.0, 1.0)
    assert normalise(images, "cpu", torch.bfloat16).dtype == torch.bfloat16
    assert images[0, 0, 15, 15] == 255


def test_each_channel_has_a_mean_and_a_spread_of_its_own():
    images = torch.arange(192, dtype=torch.uint8).reshape(1, 3, 8, 8)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    wanted = images.double() / 255
    for channel in range(3):
        wanted[:, channel] = (wanted[:, channel] - mean[channel]) / std[channel]
    for out in (
        normalise(images, "cpu", torch.float32, mean, std),
        Normaliser(torch.device("cpu"), torch.float32, mean, std)(images),
    ):
        assert torch.allclose(out.double(), wanted, atol=1e-6, rtol=0)
