import pytest
import torch

from neuropictor.models.encoder import (
    FMRIAutoencoder,
    FMRIEncoder,
    patchify,
    reconstruction_error,
    sincos_table,
    unpatchify,
)


def small(**changes):
    return FMRIAutoencoder(
        **{"image_size": (16, 24), "patch_size": 8, "width": 16, "depth": 1, "heads": 2, "decoder_width": 8}
        | {"decoder_depth": 1, "bottleneck": 5}
        | changes
    )


def test_sizes_follow_from_the_arguments():
    model = small(in_channels=2)
    maps = torch.randn(3, 2, 16, 24)
    assert model.encoder.n_tokens == 7
    assert model.encoder(maps).shape == (3, 7, 16)
    assert model.encode(maps).shape == (3, 1, 5)
    assert model(maps).shape == maps.shape


def test_patches_come_back():
    maps = torch.randn(2, 3, 16, 24)
    patches = patchify(maps, 8)
    assert patches.shape == (2, 6, 192)
    torch.testing.assert_close(patches[0, 0, :6], maps[0, :, 0, :2].T.reshape(-1))  # row, column, channel
    torch.testing.assert_close(unpatchify(patches, (16, 24), 8), maps)


def test_error_counts_masked_pixels_only():
    maps, reconstruction = torch.randn(2, 2, 4, 4), torch.randn(2, 2, 4, 4)
    mask = torch.zeros(4, 4, dtype=torch.bool)
    mask[1, :2] = True
    expected = ((reconstruction - maps) ** 2)[:, :, 1, :2].flatten(1).mean(1)
    torch.testing.assert_close(reconstruction_error(reconstruction, maps, mask), expected)
    torch.testing.assert_close(reconstruction_error(reconstruction, maps, mask.expand(2, 4, 4)), expected)


def test_dropout_acts_in_training_only():
    torch.manual_seed(0)
    model, maps = small(dropout=0.5), torch.randn(2, 1, 16, 24)
    model.train()
    assert not torch.equal(model(maps), model(maps))
    model.eval()
    assert torch.equal(model(maps), model(maps))


def test_save_pretrained_round_trip(tmp_path):
    model = small()
    model.save_pretrained(tmp_path)
    again = FMRIAutoencoder.from_pretrained(tmp_path)
    maps = torch.randn(1, 1, 16, 24)
    torch.testing.assert_close(again(maps), model.eval()(maps))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FMRIEncoder(20, 8, width=16, depth=1, heads=2), "image_size: 20 x 20 is not a multiple"),
        (lambda: FMRIEncoder(16, 8, width=16, depth=1, heads=3), "heads: 3 does not divide width 16"),
        (lambda: sincos_table(6, 2, 2), "width: 6"),
        (lambda: small()(torch.zeros(1, 1, 24, 16)), r"maps: shape \(1, 1, 24, 16\)"),
    ],
)
def test_errors_name_value_and_allowed(make, message):
    with pytest.raises(ValueError, match=message) as error:
        make()
    assert "for example" in str(error.value)
