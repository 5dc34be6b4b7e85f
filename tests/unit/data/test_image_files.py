"""Image files of other programs: what a person sees in them is read, or they are refused by name."""

import numpy as np
import pytest
from PIL import Image

from neuropictor.data.image_files import read_image

SIDE = 32
ROTATE_90_CW = 6  # EXIF's orientation


@pytest.fixture(scope="module")
def seen():
    values = np.linspace(0, 255, SIDE * SIDE).reshape(SIDE, SIDE)
    return np.stack([values, values[::-1], values.T], -1).astype(np.uint8)


@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "tif"])
def test_images_are_turned_as_their_exif_says(seen, tmp_path, ending):
    turned = Image.fromarray(seen).transpose(Image.Transpose.ROTATE_90)
    exif = turned.getexif()
    exif[0x0112] = ROTATE_90_CW
    turned.save(tmp_path / f"a.{ending}", exif=exif, quality=100)
    assert np.abs(read_image(tmp_path / f"a.{ending}").astype(int) - seen).mean() < 3


def test_greys_of_16_bits_are_scaled_and_numbers_without_a_scale_refused(seen, tmp_path):
    grey = seen[..., 0]
    for name in ("grey.png", "grey.tif"):
        deep = grey.astype(np.uint16) * 257
        Image.fromarray(np.where(grey < 255, deep + 100, deep)).save(tmp_path / name)  # rounded, not cut
        assert np.array_equal(read_image(tmp_path / name), np.repeat(grey[..., None], 3, -1))
    for kind in (np.float32, np.int32):
        Image.fromarray(grey.astype(kind)).save(tmp_path / "deep.tif")
        with pytest.raises(ValueError, match=r"deep\.tif .*no known black and white.*allowed: .* 8 or 16 bits"):
            read_image(tmp_path / "deep.tif")
    Image.fromarray(deep).save(tmp_path / "clear.png", transparency=int(deep[9, 9]))
    with pytest.raises(ValueError, match=r"clear\.png .*mode I;16 have no known"):
        read_image(tmp_path / "clear.png")


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_parts_are_white(seen, tmp_path, mode):
    clear = Image.fromarray(seen).convert("RGBA")
    clear.putalpha(Image.fromarray(np.where(np.arange(SIDE) < 8, 0, 255).astype(np.uint8)[None].repeat(SIDE, 0)))
    clear.convert(mode).save(tmp_path / "clear.png")
    found = read_image(tmp_path / "clear.png")
    assert (found[:, :8] == 255).all()
    assert np.array_equal(found[:, 8:], np.asarray(Image.open(tmp_path / "clear.png").convert("RGB"))[:, 8:])


def test_damaged_foreign_and_huge_files_are_named(seen, tmp_path):
    for ending in ("jpg", "png", "webp", "tif", "bmp"):
        Image.fromarray(seen).resize((200, 200)).save(tmp_path / f"whole.{ending}")
        whole = (tmp_path / f"whole.{ending}").read_bytes()
        for harm in (whole[: len(whole) // 2], b"", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"):
            (tmp_path / f"bad.{ending}").write_bytes(harm)
            with pytest.raises(ValueError, match=rf"bad\.{ending} cannot be read as an image \(.*allowed: one whole"):
                read_image(tmp_path / f"bad.{ending}")
    broken = bytearray((tmp_path / "whole.png").read_bytes())
    broken[60] ^= 255
    (tmp_path / "bad.png").write_bytes(broken)
    Image.new("1", (10_000, 10_000)).save(tmp_path / "large.png")
    frames = [Image.fromarray(values) for values in (seen, seen[::-1])]
    frames[0].save(tmp_path / "moving.webp", save_all=True, append_images=frames[1:], lossless=True)
    for name, words in (("bad.png", "broken"), ("large.png", "exceeds limit"), ("moving.webp", "holds 2 images")):
        with pytest.raises(ValueError, match=rf"{name} cannot be read as an image \(.*{words}"):
            read_image(tmp_path / name)


def test_formats_are_few_whatever_a_file_is_called_and_of_a_cameras_views_the_first_is_read(seen, tmp_path):
    for kind in ("GIF", "PPM", "TGA"):
        Image.fromarray(seen).save(tmp_path / "other.png", format=kind)
        with pytest.raises(ValueError, match=r"other\.png cannot be read as an image \(cannot identify"):
            read_image(tmp_path / "other.png")
    views = [Image.fromarray(values) for values in (seen, seen[::-1])]
    views[0].save(tmp_path / "camera.jpg", format="MPO", save_all=True, append_images=views[1:], quality=100)
    assert np.abs(read_image(tmp_path / "camera.jpg").astype(int) - seen).mean() < 3


def test_no_flipped_byte_of_a_png_passes(seen, tmp_path):
    Image.fromarray(seen[:9, :9]).save(tmp_path / "a.png")
    whole = (tmp_path / "a.png").read_bytes()
    for place in range(len(whole)):
        (tmp_path / "a.png").write_bytes(whole[:place] + bytes([whole[place] ^ 16]) + whole[place + 1 :])
        try:
            found = read_image(tmp_path / "a.png")
        except ValueError as error:
            assert "a.png cannot be read as an image" in str(error)
        else:
            assert np.array_equal(found, seen[:9, :9]), place


def test_pointers_and_broken_links_are_told_from_images(tmp_path):
    (tmp_path / "lfs.png").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    (tmp_path / "annex.png").write_text("/annex/objects/SHA256E-s9--0.png\n")
    (tmp_path / "link.png").symlink_to(tmp_path / ".git/annex/objects/0.png")
    for name, words in (
        ("lfs", "git lfs pull"),
        ("annex", "git annex get"),
        ("link", "annex/objects/0"),
        ("no", "missing"),
    ):
        with pytest.raises(FileNotFoundError, match=rf"{name}\.png is .*{words}"):
            read_image(tmp_path / f"{name}.png")
