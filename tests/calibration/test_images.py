"""Folders of images."""

import warnings

import numpy as np
import pytest

from onnxprune.calibration.inputs import load_data
from onnxprune.config import PreprocessConfig
from onnxprune.core.errors import InputError
from onnxprune.graph.load import load
from onnxprune.ops.examples import example

Image = pytest.importorskip("PIL.Image")


def taking(dims):
    return load(example(f"g (float[{dims}] x) => (float[{dims}] y) {{ y = Identity (x) }}"))


def write(path, size=(6, 4), colour=(10, 20, 30), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path)


def test_a_subfolder_is_a_class_in_the_order_of_names(tmp_path):
    for name, count in (("dog", 2), ("cat", 3)):
        for index in range(count):
            write(tmp_path / name / f"{index}.png", colour=(index, 0, 100 if name == "cat" else 200))
    (tmp_path / "cat" / "notes.txt").write_text("not an image")
    (tmp_path / "empty").mkdir()
    data = load_data(tmp_path, taking("N,3,4,6"))
    np.testing.assert_array_equal(data.targets, [0, 0, 0, 1, 1])
    feed = data.feeds()["x"]
    assert feed.shape == (5, 3, 4, 6)
    np.testing.assert_array_equal(feed[:, 2, 0, 0], [100, 100, 100, 200, 200])
    np.testing.assert_array_equal(feed[:, 0, 0, 0], [0, 1, 2, 0, 1])
    assert "2 classes, cat to dog" in data.notes


def test_class_folders_named_by_numbers_keep_them(tmp_path):
    for name in ("2", "10", "0"):
        write(tmp_path / name / "a.png", colour=(int(name), 0, 0))
    data = load_data(tmp_path, taking("N,3,4,6"))
    np.testing.assert_array_equal(data.targets, data.feeds()["x"][:, 0, 0, 0])
    assert sorted(data.targets) == [0, 2, 10]


def test_flat_folder_has_no_labels(tmp_path):
    for name in ("b.png", "a.bmp", ".hidden.png"):
        write(tmp_path / name, colour=(ord(name[0]), 0, 0))
    data = load_data(tmp_path, taking("N,4,6,3"))
    assert data.targets is None
    np.testing.assert_array_equal(data.feeds()["x"][:, 0, 0, 0], [ord("a"), ord("b")])


@pytest.mark.parametrize("dims", ["N,1,5,5", "N,5,5,1", "N,25", "1,25,1"])
def test_colour_images_for_a_grey_model(tmp_path, dims):
    write(tmp_path / "a.png", size=(5, 5), colour=(9, 9, 9))
    feed = load_data(tmp_path, taking(dims)).feeds()["x"]
    assert feed.size == 25
    assert (feed == 9).all()


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "1"])
def test_images_of_other_modes_become_rgb(tmp_path, mode):
    write(tmp_path / "a.png", mode=mode, colour=0)
    assert load_data(tmp_path, taking("N,3,4,6")).feeds()["x"].shape == (1, 3, 4, 6)


def test_size_resizes_the_short_side_and_crops_the_centre(tmp_path):
    pixels = np.zeros((40, 120, 3), np.uint8)
    pixels[:, 40:80] = 200
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    Image.fromarray(pixels.transpose(1, 0, 2)).save(tmp_path / "high.png")
    feed = load_data(tmp_path, taking("N,3,16,16"), PreprocessConfig(size=20)).feeds()["x"]
    # Scaled to 60 x 20, the bright third is columns 20 to 40; the crop is columns 22 to 38.
    assert feed.shape == (2, 3, 16, 16)
    assert (feed == 200).all()


def test_size_alone_gives_squares_where_the_model_is_free(tmp_path):
    write(tmp_path / "a.png", size=(30, 20))
    assert load_data(tmp_path, taking("N,3,h,w"), PreprocessConfig(size=10)).feeds()["x"].shape == (1, 3, 10, 10)


def test_images_of_another_size_ask_for_the_option(tmp_path):
    write(tmp_path / "a.png", size=(30, 20))
    with pytest.raises(InputError, match=r"a\.png is 30x20 .*the model takes 16x16; give --size 16"):
        load_data(tmp_path, taking("N,3,16,16"))
    with pytest.raises(InputError, match=r"after --size 8, smaller than the model's 16x16; give --size 16"):
        load_data(tmp_path, taking("N,3,16,16"), PreprocessConfig(size=8))
    write(tmp_path / "b.png", size=(20, 20))
    with pytest.raises(InputError, match=r"b\.png is 20x20 .*a\.png is 30x20; give --size"):
        load_data(tmp_path, taking("N,3,h,w"))


def test_rotation_in_the_files_metadata_is_applied(tmp_path):
    image = Image.new("RGB", (6, 4))
    exif = Image.Exif()
    exif[0x0112] = 6  # a camera held upright
    image.save(tmp_path / "a.jpg", exif=exif)
    assert load_data(tmp_path, taking("N,3,h,w")).feeds()["x"].shape == (1, 3, 6, 4)


def test_limit_spreads_over_classes_and_agrees_with_arrays(tmp_path):
    for label in range(4):
        for index in range(5):
            write(tmp_path / f"{label}" / f"{index}.png", colour=(label, index, 0))
    data = load_data(tmp_path, taking("N,3,4,6"), limit=8, seed=1)
    np.testing.assert_array_equal(np.bincount(data.targets), [2, 2, 2, 2])
    np.testing.assert_array_equal(data.feeds()["x"][:, 0, 0, 0], data.targets)


def test_damaged_image_is_named(tmp_path):
    write(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes()[:40])
    (tmp_path / "c.jpg").write_text("no image")
    with pytest.raises(InputError, match=r"b\.png cannot be read as an image"):
        load_data(tmp_path, taking("N,3,4,6"))


def test_images_beside_class_folders_are_refused(tmp_path):
    write(tmp_path / "a.png")
    write(tmp_path / "cat" / "a.png")
    with pytest.raises(InputError, match="beside the class folder 'cat'"):
        load_data(tmp_path, taking("N,3,4,6"))


def test_models_that_take_no_images(tmp_path):
    write(tmp_path / "a.png")
    with pytest.raises(InputError, match="takes no images of 1 or 3 channels"):
        load_data(tmp_path, taking("N,7,4,6"))


def test_decoded_images_can_live_in_a_file(tmp_path, monkeypatch):
    monkeypatch.setattr("onnxprune.calibration.images._IN_MEMORY", 10)
    for index in range(3):
        write(tmp_path / f"{index}.png", colour=(index, 0, 0))
    data = load_data(tmp_path, taking("N,3,4,6"))
    assert isinstance(data.arrays["x"], np.memmap)
    np.testing.assert_array_equal(data.feeds()["x"][:, 0, 0, 0], [0, 1, 2])


FORMATS = ("png", "jpeg", "gif", "bmp", "tiff", "webp", "ppm")


@pytest.mark.parametrize("kind", FORMATS)
def test_damaged_images_of_every_format_are_read_or_named(tmp_path, kind):
    """Decoders raise whatever they stumble over, and warn of it besides."""
    model = taking("N,3,16,16")
    rng = np.random.default_rng(0)
    path = tmp_path / f"a.{kind}"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(rng.integers(0, 255, (16, 16, 3), np.uint8)).save(path, exif=exif)
    whole, read, refused = path.read_bytes(), 0, 0
    for _ in range(60):
        changed = bytearray(whole)
        for place in rng.integers(0, min(len(whole), 300), rng.integers(1, 4)):
            changed[place] = rng.integers(0, 256)
        path.write_bytes(changed[: len(whole) - int(rng.integers(0, 2)) * int(rng.integers(0, len(whole)))])
        with warnings.catch_warnings(action="error"):
            try:
                read += load_data(tmp_path, model).feeds()["x"].shape == (1, 3, 16, 16)
            except InputError as error:
                refused += "\n" not in str(error)
    assert refused > 5
    assert read + refused == 60


def test_an_image_of_more_pixels_than_anybody_means_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    write(tmp_path / "a.png")
    with pytest.raises(InputError, match=r"a\.png cannot be read as an image: Image size \(24 pixels\)"):
        load_data(tmp_path, taking("N,3,4,6"))


def test_a_disk_that_is_full_is_said(tmp_path, monkeypatch):
    """The mapping would have been written beyond the file's end: a bus error."""

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("onnxprune.calibration.images._IN_MEMORY", 10)
    monkeypatch.setattr("os.posix_fallocate", full)
    write(tmp_path / "a.png")
    with pytest.raises(InputError, match=r"1 images of 6x4 take .* GB there \(No space left.*TMPDIR"):
        load_data(tmp_path, taking("N,3,4,6"))


def test_class_folders_named_by_long_numbers_are_names(tmp_path):
    """They did not fit into a class number."""
    for name in ("20240131123456789012345", "5"):
        write(tmp_path / name / "a.png")
    np.testing.assert_array_equal(load_data(tmp_path, taking("N,3,4,6")).targets, [0, 1])
