"""Random changes to training rows."""

import numpy as np
import pytest

from onnxprune.calibration.dataset import Dataset
from onnxprune.config import FinetuneConfig

torch = pytest.importorskip("torch", reason="fine-tuning needs torch")

from onnxprune.training.augment import augment, image_layout, settled  # noqa: E402 (needs torch)


def images(rows: int = 40) -> "torch.Tensor":
    return torch.arange(rows * 3 * 5 * 6, dtype=torch.float32).reshape(rows, 3, 5, 6)


def test_flip_mirrors_about_half_of_the_rows_and_nothing_else() -> None:
    x = images()
    changed = augment({"x": x}, FinetuneConfig(flip=True), np.random.default_rng(0))["x"]
    mirrored = (changed == x.flip(3)).flatten(1).all(1)
    same = (changed == x).flatten(1).all(1)
    assert (mirrored | same).all()
    assert 10 < mirrored.sum() < 30


def test_shift_moves_each_row_by_its_own_amount_and_repeats_the_border() -> None:
    x = images()
    changed = augment({"x": x}, FinetuneConfig(shift=2), np.random.default_rng(0))["x"].numpy()
    padded = np.pad(x.numpy(), ((0, 0), (0, 0), (2, 2), (2, 2)), "edge")
    found = set()
    for row, image in enumerate(changed):
        fits = [
            (dy, dx)
            for dy in range(5)
            for dx in range(5)
            if np.array_equal(image, padded[row, :, dy : dy + 5, dx : dx + 6])
        ]
        assert len(fits) == 1
        found.add(fits[0])
    assert len(found) > 10


def test_channels_last_images_are_moved_alike() -> None:
    x, config = images(), FinetuneConfig(flip=True, shift=2)
    first = augment({"x": x}, config, np.random.default_rng(5))["x"]
    last = augment({"x": x.movedim(1, -1)}, config, np.random.default_rng(5))["x"]
    assert torch.equal(first, last.movedim(-1, 1))


def test_mixup_is_a_convex_combination_of_two_rows() -> None:
    x = torch.eye(8)
    mixed = augment({"x": x}, FinetuneConfig(mixup=0.5), np.random.default_rng(1))["x"]
    torch.testing.assert_close(mixed.sum(1), torch.ones(8))
    assert ((mixed > 0).sum(1) <= 2).all()
    assert not torch.equal(mixed, x)


@pytest.mark.parametrize(
    ("dtype", "whole", "teacher", "given", "mixup"),
    [
        (np.float32, False, True, None, 1.0),
        (np.float32, False, True, 0.0, 0.0),
        (np.float32, False, True, 0.2, 0.2),
        (np.float32, False, False, None, 0.0),
        (np.float32, True, True, None, 0.0),
        (np.int64, False, True, None, 0.0),
    ],
)
def test_rows_are_mixed_where_a_teacher_can_say_what_they_give(
    dtype: type, whole: bool, teacher: bool, given: float | None, mixup: float
) -> None:
    probe = Dataset({"x": np.zeros((4, 5), dtype)}, None, "test", np.arange(1 if whole else 4), whole=whole)
    assert settled(FinetuneConfig(mixup=given), probe, teacher).mixup == mixup


def test_layouts_are_told_by_the_number_of_channels() -> None:
    assert image_layout((2, 3, 8, 8)) == "nchw"
    assert image_layout((2, 8, 8, 1)) == "nhwc"
    assert image_layout((2, 8, 8, 8)) is None
    assert image_layout((2, 784)) is None
