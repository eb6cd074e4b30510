# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
import io
import logging
import pickle
import struct
import zlib
from pathlib import Path

import datasets
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from modeling_cssfe.data import ImageDecodingError, decode_image, verify_images
from modeling_cssfe.data.decoding import IMAGE_FORMATS, decode_pixels, read_encoded


# Pillow remarks on the damage in files that the tests damage.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")


def encode(image: Image.Image, image_format: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def gradient(height: int = 4, width: int = 6) -> np.ndarray:
    return (np.arange(height * width * 3, dtype=np.uint8) * 3).reshape(height, width, 3)


@pytest.mark.parametrize("image_format", ["PNG", "BMP", "TIFF", "PPM"])
def test_lossless_formats_give_the_pixels_that_were_stored(image_format):
    decoded = decode_image(encode(Image.fromarray(gradient()), image_format))
    assert decoded.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(decoded), gradient())


def test_a_path_an_undecoded_cell_and_bytes_give_the_same_image(tmp_path):
    data = encode(Image.fromarray(gradient()))
    path = tmp_path / "a.png"
    path.write_bytes(data)
    cells = (data, path, str(path), {"bytes": data, "path": "gone.png"}, {"bytes": None, "path": str(path)})
    for cell in cells:
        np.testing.assert_array_equal(np.asarray(decode_image(cell)), gradient())


# The eight EXIF orientations, as the standard (CIPA DC-008, tag 274) defines row 0 and column 0 of what is stored.
ORIENTATIONS = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a.transpose(1, 0, 2), 2),
    8: lambda a: np.rot90(a, 1),
}


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_exif_orientation_is_applied(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    decoded = decode_image(encode(Image.fromarray(gradient()), exif=exif))
    np.testing.assert_array_equal(np.asarray(decoded), ORIENTATIONS[orientation](gradient()))


def test_damaged_exif_leaves_the_pixels_as_stored():
    data = encode(Image.fromarray(gradient()), exif=b"Exif\0\0II*\0\xff\xff\xff\xffgarbage")
    np.testing.assert_array_equal(np.asarray(decode_image(data)), gradient())


def test_alpha_is_laid_over_white():
    pixels = np.zeros((1, 3, 4), dtype=np.uint8)
    pixels[0, :, 0] = 200
    pixels[0, :, 3] = [255, 0, 51]
    decoded = np.asarray(decode_image(encode(Image.fromarray(pixels))))
    # alpha * colour + (1 - alpha) * 255, alpha = 1, 0, .2
    np.testing.assert_allclose(decoded[0], [[200, 0, 0], [255, 255, 255], [244, 204, 204]], atol=1)


def test_transparent_grey_palette_and_colour_key_show_white():
    grey = Image.fromarray(np.array([[[30, 255], [30, 0]]], dtype=np.uint8), "LA")
    palette = Image.fromarray(np.array([[0, 1]], dtype=np.uint8), "P")
    palette.putpalette([30, 30, 30, 90, 90, 90])
    key = Image.fromarray(np.array([[[30, 30, 30], [7, 8, 9]]], dtype=np.uint8))
    for data in (encode(grey), encode(palette, transparency=1), encode(key, transparency=(7, 8, 9))):
        assert np.asarray(decode_image(data)).tolist() == [[[30, 30, 30], [255, 255, 255]]]


def test_greyscale_one_bit_and_palette_become_rgb():
    grey = np.array([[0, 100, 255]], dtype=np.uint8)
    assert np.asarray(decode_image(encode(Image.fromarray(grey)))).tolist() == [[[v] * 3 for v in (0, 100, 255)]]
    bits = Image.fromarray(np.array([[0, 255]], dtype=np.uint8)).convert("1")
    assert np.asarray(decode_image(encode(bits))).tolist() == [[[0] * 3, [255] * 3]]
    palette = Image.fromarray(np.array([[1, 0]], dtype=np.uint8), "P")
    palette.putpalette([1, 2, 3, 4, 5, 6])
    assert np.asarray(decode_image(encode(palette))).tolist() == [[[4, 5, 6], [1, 2, 3]]]


@pytest.mark.parametrize("image_format", ["PNG", "TIFF", "PPM"])
def test_sixteen_bit_grey_keeps_its_upper_eight_bits(image_format):
    values = np.array([[0, 255, 256, 32768, 65535]], dtype=np.uint16)
    if image_format == "PPM":  # by hand: older versions of Pillow only read it
        data = b"P5 5 1 65535\n" + values.astype(">u2").tobytes()
    else:
        data = encode(Image.fromarray(values), image_format)
    decoded = np.asarray(decode_image(data))
    assert decoded[0, :, 0].tolist() == [0, 0, 1, 128, 255]
    assert (decoded == decoded[..., :1]).all()


def test_sixteen_bit_colour_keeps_its_upper_eight_bits():
    # Written by hand: Pillow cannot write 16-bit colour.
    row = b"\0" + struct.pack(">6H", 0x1234, 0xFFFF, 0x0000, 0x80FF, 0x0100, 0x00FF)

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(row)) + chunk(b"IEND", b"")
    assert np.asarray(decode_image(data)).tolist() == [[[0x12, 0xFF, 0x00], [0x80, 0x01, 0x00]]]


def test_cmyk_becomes_rgb_by_one_minus_ink():
    ink = np.zeros((8, 8, 4), dtype=np.uint8)
    ink[..., 0] = 255  # full cyan takes away red
    decoded = np.asarray(decode_image(encode(Image.fromarray(ink, "CMYK"), "TIFF")))
    assert decoded[0, 0].tolist() == [0, 255, 255]
    # JPEG stores Adobe's inverted CMYK; lossy, so only roughly.
    decoded = np.asarray(decode_image(encode(Image.fromarray(ink, "CMYK"), "JPEG", quality=95)))
    np.testing.assert_allclose(decoded[0, 0], [0, 255, 255], atol=8)


@pytest.mark.parametrize("image_format", ["GIF", "PNG", "WEBP", "TIFF"])
def test_of_several_frames_the_first_is_taken(image_format):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ((255, 0, 0), (0, 0, 255))]
    data = encode(frames[0], image_format, save_all=True, append_images=frames[1:])
    np.testing.assert_allclose(np.asarray(decode_image(data))[4, 4], [255, 0, 0], atol=8)


@pytest.mark.parametrize("values", [np.ones((2, 2), np.float32), np.full((2, 2), 70000, np.int32)])
def test_pixels_without_a_known_range_are_refused(values):
    with pytest.raises(ImageDecodingError, match="pixels; store it with 8 or 16 bits"):
        decode_image(encode(Image.fromarray(values), "TIFF"), image_id="x")


def test_more_pixels_than_the_limit_are_refused_before_decoding():
    # One row less than the limit allows decodes; the limit counts pixels, not bytes.
    data = encode(Image.new("L", (100, 50)))
    assert decode_image(data, max_pixels=5000).size == (100, 50)
    with pytest.raises(ImageDecodingError, match=r"image 'bomb' has 100 x 50 pixels, more than the limit of 4,999"):
        decode_image(data, image_id="bomb", max_pixels=4999)


def test_a_pillow_image_that_was_only_opened_is_read_and_judged_like_its_file():
    data = encode(Image.effect_noise((100, 50), 90), "JPEG")
    assert decode_image(Image.open(io.BytesIO(data))).tobytes() == decode_image(data).tobytes()
    with pytest.raises(ImageDecodingError, match=r"image 'cut' cannot be decoded .*truncated"):
        decode_image(Image.open(io.BytesIO(data[: len(data) // 2])), image_id="cut")
    with pytest.raises(ImageDecodingError, match="100 x 50 pixels, more than the limit of 4,999"):
        decode_image(Image.open(io.BytesIO(data)), max_pixels=4999)
    assert decode_image(Image.new("L", (100, 50)), max_pixels=4999).size == (100, 50)  # no file, no limit


def test_a_decompression_bomb_is_refused_by_its_header():
    # A header that promises 60,000 x 60,000 pixels and no data behind it.
    body = b"IHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))
    with pytest.raises(ImageDecodingError, match="pixels"):
        decode_image(data + struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT")))


BROKEN = {
    "no bytes": (b"", "is empty"),
    "text": (b"hello, I am no image", "not an image"),
    "truncated PNG": (encode(Image.fromarray(gradient(40, 40)))[:-60], "cannot be decoded"),
    "truncated JPEG": (encode(Image.fromarray(gradient(40, 40)), "JPEG")[:200], "cannot be decoded"),
    # Pillow would start Ghostscript for this one.
    "PostScript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n", "not an image"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_image_is_one_line_that_names_it(case, tmp_path):
    data, reason = BROKEN[case]
    path = tmp_path / "bad.jpg"
    path.write_bytes(data)
    for cell in ({"bytes": data, "path": "bad.jpg"}, path):
        with pytest.raises(ImageDecodingError, match=reason) as caught:
            decode_image(cell, image_id="img7")
        assert "img7" in str(caught.value)
        assert "bad.jpg" in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_missing_file_a_folder_and_an_empty_cell_are_named(tmp_path):
    with pytest.raises(ImageDecodingError, match=r"nothing\.png' does not exist"):
        decode_image(tmp_path / "nothing.png")
    with pytest.raises(ImageDecodingError, match="is a folder"):
        decode_image(tmp_path)
    with pytest.raises(ImageDecodingError, match="image 'a' has neither bytes nor a path"):
        decode_image({"bytes": None, "path": None}, image_id="a")


def test_every_listed_format_is_one_that_pillow_knows():
    Image.init()
    assert set(IMAGE_FORMATS) - {"AVIF"} <= set(Image.OPEN)  # AVIF came with Pillow 11.3


@settings(max_examples=150, deadline=None)
@given(
    position=st.integers(0, 10_000),
    garbage=st.binary(min_size=1, max_size=12),
    kind=st.sampled_from(["PNG", "JPEG", "GIF", "TIFF", "WEBP"]),
)
def test_damaged_bytes_give_an_image_or_the_one_error(position, garbage, kind):
    data = bytearray(encode(Image.fromarray(gradient(16, 16)), kind))
    start = position % len(data)
    data[start : start + len(garbage)] = garbage
    try:
        outcome = decode_image(bytes(data), max_pixels=1_000_000).mode
    except ImageDecodingError as error:
        outcome = str(error)
    assert outcome == "RGB" or ("\n" not in outcome and outcome.startswith("an image without id or path "))


def test_the_error_crosses_processes_and_keeps_its_line_when_a_worker_sends_its_traceback():
    error = pickle.loads(pickle.dumps(ImageDecodingError("image 'a' is empty.")))
    assert str(error) == "image 'a' is empty."
    text = f"Caught X in worker 0.\nTraceback\n  File y\nmodeling.ImageDecodingError: {error}\n"
    sent = ImageDecodingError(text)
    assert str(sent) == "image 'a' is empty."
    assert sent.worker_traceback == text


def outcome(decode, data: bytes) -> np.ndarray | str:
    try:
        decoded = decode(data, image_id="x", max_pixels=1_000_000)
    except ImageDecodingError as error:
        return str(error)
    return np.asarray(decoded) if isinstance(decoded, Image.Image) else decoded.permute(1, 2, 0).numpy()


def with_orientation(value: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = value
    return encode(Image.fromarray(gradient(24, 40)), "JPEG", exif=exif)


PHOTOGRAPH = Image.fromarray(gradient(24, 40)).resize((333, 217), Image.Resampling.BICUBIC)
JPEGS = {
    "baseline": encode(PHOTOGRAPH, "JPEG", quality=90),
    "progressive": encode(PHOTOGRAPH, "JPEG", progressive=True),
    "full colour resolution": encode(PHOTOGRAPH, "JPEG", subsampling=0),
    "half colour resolution in width": encode(PHOTOGRAPH, "JPEG", subsampling=1),
    "grey": encode(PHOTOGRAPH.convert("L"), "JPEG"),
    "CMYK": encode(PHOTOGRAPH.convert("CMYK"), "JPEG"),
    "one pixel": encode(Image.new("RGB", (1, 1), (10, 200, 30)), "JPEG"),
    "RGB stored as such": encode(PHOTOGRAPH, "JPEG", keep_rgb=True),
    "with the end missing": encode(PHOTOGRAPH, "JPEG")[:-2],
    **{f"orientation {value}": with_orientation(value) for value in (1, 3, 6, 8, 0, 9)},
}
OTHERS = {
    "PNG": encode(PHOTOGRAPH),
    "16 bits": encode(Image.fromarray(gradient()[..., 0].astype(np.uint16) * 257)),
    "alpha": encode(PHOTOGRAPH.convert("RGBA")),
    "GIF": encode(PHOTOGRAPH, "GIF"),
}


@pytest.mark.parametrize("case", [*JPEGS, *OTHERS, *BROKEN])
def test_tensors_and_pillow_images_have_the_same_pixels_and_errors(case):
    data = (JPEGS | OTHERS | {name: data for name, (data, _) in BROKEN.items()})[case]
    image, tensor = outcome(decode_image, data), outcome(decode_pixels, data)
    if isinstance(image, str):
        assert tensor == image
    else:
        np.testing.assert_array_equal(tensor, image)


@pytest.mark.parametrize("kind", ["baseline", "progressive"])
def test_tensors_and_pillow_images_agree_wherever_a_file_is_cut_off(kind):
    data = JPEGS[kind]
    for length in range(0, len(data), 53):
        image, tensor = outcome(decode_image, data[:length]), outcome(decode_pixels, data[:length])
        assert isinstance(image, str)
        assert tensor == image


def test_tensors_are_decoded_without_torchvisions_decoder_too(monkeypatch):
    import torchvision.io

    expected = outcome(decode_pixels, JPEGS["baseline"])
    monkeypatch.delattr(torchvision.io, "decode_jpeg")
    np.testing.assert_array_equal(outcome(decode_pixels, JPEGS["baseline"]), expected)


def test_a_deprecation_that_is_made_an_error_does_not_make_images_broken():
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tensor = outcome(decode_pixels, JPEGS["baseline"])
    np.testing.assert_array_equal(tensor, outcome(decode_image, JPEGS["baseline"]))


def test_encoded_bytes_come_from_cells_and_paths_and_a_missing_file_is_named(tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(b"abc")
    for cell in (b"abc", path, str(path), {"bytes": b"abc", "path": None}, {"bytes": None, "path": str(path)}):
        assert bytes(read_encoded(cell)) == b"abc"
    with pytest.raises(ImageDecodingError, match=r"image 'x' \(.*b\.jpg\) does not exist"):
        read_encoded({"bytes": None, "path": str(tmp_path / "b.jpg")}, image_id="x")
    with pytest.raises(TypeError, match="is a decoded Pillow image"):
        read_encoded(Image.new("RGB", (1, 1)))


@pytest.fixture
def mixed(image_bytes) -> datasets.Dataset:
    cells = [image_bytes(0), b"", image_bytes(1), b"junk", *(image_bytes(seed) for seed in range(2, 130))]
    return datasets.Dataset.from_dict(
        {"image_id": [f"i{n}" for n in range(len(cells))], "image": [{"bytes": c, "path": None} for c in cells]},
        features=datasets.Features({"image_id": datasets.Value("string"), "image": datasets.Image(decode=False)}),
    )


@pytest.mark.parametrize("num_threads", [1, 3])
def test_verification_names_all_broken_images_at_once(mixed, num_threads):
    with pytest.raises(ImageDecodingError, match=r"2 of 132 images cannot be decoded: 'i1', 'i3'"):
        verify_images(mixed, num_threads=num_threads, progress=False)


@pytest.mark.parametrize("num_threads", [1, 3])
def test_verification_can_leave_broken_images_out_and_says_so(mixed, num_threads, caplog):
    with caplog.at_level(logging.WARNING):
        kept, report = verify_images(mixed, on_error="skip", num_threads=num_threads, progress=False)
    assert list(kept["image_id"]) == [f"i{n}" for n in range(132) if n not in (1, 3)]
    assert report.num_checked == 132
    assert [(index, image_id) for index, image_id, _ in report.broken] == [(1, "i1"), (3, "i3")]
    assert "'i1', 'i3'" in caplog.text


def test_verification_keeps_a_sound_set_as_it_is(mixed):
    sound = mixed.select([0, 2])
    kept, report = verify_images(sound, progress=False)
    assert kept is sound
    assert report.broken == ()


def test_a_set_without_any_readable_image_is_an_error_even_when_skipping(mixed):
    with pytest.raises(ImageDecodingError, match="none of the 2 images"):
        verify_images(mixed.select([1, 3]), on_error="skip", progress=False)


def test_an_unknown_error_rule_is_refused(mixed):
    with pytest.raises(ValueError, match="'raise' or 'skip', got 'ignore'"):
        verify_images(mixed, on_error="ignore")


def test_the_real_photographs_decode(voc07_lt):
    import pyarrow.parquet as parquet

    cells = parquet.read_table(voc07_lt / "train.parquet", columns=["image"])["image"][:20].to_pylist()
    for cell in cells:
        decoded = decode_image(cell)
        assert (decoded.mode, min(decoded.size) <= 320) == ("RGB", True)
        expected = Image.open(io.BytesIO(cell["bytes"]))
        np.testing.assert_array_equal(np.asarray(decoded), np.asarray(expected))
    assert Path(cells[0]["path"]).suffix == ".jpg"
