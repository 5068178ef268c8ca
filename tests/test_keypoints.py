"""Keypoints: where they are, in which order, and what happens when a detector fails."""

from __future__ import annotations

import threading
from concurrent.futures import Future

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from PIL import Image
from skimage import data

from semattn.errors import ShapeError
from semattn.keypoints import Keypoints, detect, detect_async, detectors, sift, sift_skimage
from semattn.keypoints.detectors import keypoints_of_table

BOTH = pytest.mark.parametrize("name", sorted(detectors))


def blob(x, y, sigma=4.0, height=96, width=128, dark=False):
    """A bright Gaussian spot about (x, y)."""
    down, across = np.mgrid[:height, :width]
    bump = np.exp(-((across - x) ** 2 + (down - y) ** 2) / (2 * sigma**2))
    grey = 40 + 180 * (1 - bump if dark else bump)
    return np.repeat(grey.round().astype(np.uint8)[..., None], 3, axis=2)


def texture(height=96, width=128, seed=0):
    """Coloured noise, coarse enough to have keypoints at several scales."""
    coarse = np.random.default_rng(seed).integers(0, 256, (-(-height // 4), -(-width // 4), 3))
    return np.kron(coarse, np.ones((4, 4, 1)))[:height, :width].astype(np.uint8)


def equal(first: Keypoints, second: Keypoints) -> bool:
    return all(
        torch.equal(getattr(first, field), getattr(second, field))
        for field in ("xy", "response", "size", "angle")
    )


@BOTH
@pytest.mark.parametrize(("x", "y"), [(60, 40), (60.5, 40.25), (33.3, 61.7), (90.75, 20.5)])
@pytest.mark.parametrize("sigma", [3.0, 5.0])
def test_a_spot_is_found_where_it_is(name, x, y, sigma):
    keypoints = detectors[name](blob(x, y, sigma))
    assert keypoints.xy[0].tolist() == pytest.approx([x, y], abs=0.1)
    # Twice the scale at which a difference of Gaussians answers most, nearly the spot's own.
    assert keypoints.size[0].item() == pytest.approx(2 * sigma, rel=0.15)
    assert keypoints.response[0].item() == pytest.approx(0.081, abs=0.005)
    assert keypoints.image_size == (96, 128)
    assert keypoints.detector == name


@BOTH
def test_the_strongest_comes_first_and_ties_go_by_row(name):
    pixels = np.maximum(blob(30, 60), blob(90, 60))
    pixels = np.maximum(pixels, blob(60, 24) // 2 + 20)
    keypoints = detectors[name](pixels)
    strong = keypoints.xy[keypoints.response > 0.07]
    assert strong.round().tolist() == [[30, 60], [90, 60]]
    assert (keypoints.response.diff() <= 0).all()
    rows = [
        (-r, y, x)
        for r, (x, y) in zip(keypoints.response.tolist(), keypoints.xy.tolist(), strict=True)
    ]
    assert rows == sorted(rows)


def test_ties_go_by_row_then_column_then_size_then_angle():
    rows = [  # x, y, response, size, angle; in the order that is wanted
        (9, 9, 2, 1, 0),
        (8, 1, 1, 1, 0),
        (1, 5, 1, 1, 0),
        (2, 5, 1, 1, 90),
        (2, 5, 1, 1, 180),
        (2, 5, 1, 3, 45),
    ]
    table = np.array(rows, dtype=np.float32)
    shuffled = [4, 2, 5, 0, 3, 1]
    names = np.arange(6, dtype=np.float32)[:, None]
    keypoints = keypoints_of_table(table[shuffled], names[shuffled], (16, 16, 3), "by hand", "keep")
    assert keypoints.descriptor.flatten().tolist() == [0, 1, 2, 3, 4, 5]
    dropped = keypoints_of_table(table[shuffled], names[shuffled], (16, 16, 3), "by hand", "drop")
    assert dropped.descriptor.flatten().tolist() == [0, 1, 2, 3, 5]


@BOTH
def test_dropping_duplicates_keeps_one_for_a_place_and_size(name):
    pixels = texture()
    keypoints = detectors[name](pixels, duplicates="keep", descriptors=True)
    dropped = detectors[name](pixels, duplicates="drop", descriptors=True)

    def place(keypoints):
        return list(zip(*keypoints.xy.T.tolist(), keypoints.size.tolist(), strict=True))

    assert len(keypoints) > len(dropped) == len(set(place(keypoints))) > 20
    assert place(dropped) == list(dict.fromkeys(place(keypoints)))
    for at, angle, descriptor in zip(
        place(dropped), dropped.angle, dropped.descriptor, strict=True
    ):
        same = [i for i, other in enumerate(place(keypoints)) if other == at]
        assert angle == keypoints.angle[same].min()
        assert any(torch.equal(descriptor, keypoints.descriptor[i]) for i in same)


@BOTH
def test_fields_and_types(name):
    keypoints = detectors[name](texture(), descriptors=True)
    k = len(keypoints)
    assert k > 20
    assert keypoints.xy.shape == (k, 2)
    assert keypoints.descriptor.shape == (k, 128)
    geometry = (keypoints.xy, keypoints.response, keypoints.size, keypoints.angle)
    for field in (*geometry, keypoints.descriptor):
        assert field.dtype == torch.float32
    assert ((keypoints.angle >= 0) & (keypoints.angle < 360)).all()
    assert (keypoints.response > 0).all()
    assert (keypoints.descriptor >= 0).all()
    assert keypoints.descriptor.sum(1).min() > 0
    assert ((keypoints.xy >= -0.5) & (keypoints.xy <= torch.tensor([127.5, 95.5]))).all()
    without = detectors[name](texture())
    assert without.descriptor is None
    assert equal(keypoints, without)


def test_descriptors_stay_with_their_keypoints():
    import cv2

    pixels = texture()
    keypoints = sift(pixels, descriptors=True, duplicates="keep")
    finder = cv2.SIFT_create(contrastThreshold=0.01, enable_precise_upscale=True)
    points, descriptors = finder.detectAndCompute(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), None)
    reference = {(*p.pt, p.size, p.angle): d for p, d in zip(points, descriptors, strict=True)}
    for i in range(len(keypoints)):
        key = (*keypoints.xy[i].tolist(), keypoints.size[i].item(), keypoints.angle[i].item())
        assert np.array_equal(reference[key], keypoints.descriptor[i].numpy())


def test_the_two_detectors_agree():
    cat = Image.fromarray(data.chelsea()).resize((160, 112), Image.Resampling.BOX)
    pixels = np.asarray(cat)
    first, second = (
        find(pixels, contrast_threshold=0.04, duplicates="keep") for find in (sift, sift_skimage)
    )
    away = torch.cdist(second.xy, first.xy) + (second.size[:, None] - first.size).abs()
    turn = ((second.angle[:, None] - first.angle + 180) % 360 - 180).abs()
    near = away < 0.3
    matched = near.any(1)
    assert matched.float().mean() > 0.6
    assert matched.sum() > 40
    nearest = away.argmin(1)
    ratio = (second.response / first.response[nearest])[matched]
    assert 0.9 < ratio.median() < 1.1
    assert 0.8 < ratio.min() < ratio.max() < 1.2
    shift = (second.xy - first.xy[nearest])[matched].mean(0)
    assert shift.abs().max() < 0.03
    turn[~near] = 180
    assert (turn.amin(1)[matched] < 20).float().mean() > 0.9


@BOTH
def test_the_threshold_is_the_contrast(name):
    faint = (blob(60, 40).astype(int) // 8 + 100).astype(np.uint8)  # contrast .01
    assert len(detectors[name](faint, contrast_threshold=0.01)) > 0
    assert len(detectors[name](faint, contrast_threshold=0.04)) == 0
    assert len(detectors[name](blob(60, 40), contrast_threshold=0.04)) > 0
    assert equal(detectors[name](texture()), detectors[name](texture(), contrast_threshold=0.01))


@BOTH
@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (2, 2), (5, 7), (6, 6), (16, 16), (7, 300)])
def test_tiny_and_uniform_images_do_not_crash(name, shape):
    for pixels in (np.zeros((*shape, 3), np.uint8), texture(*shape)):
        keypoints = detectors[name](pixels, descriptors=True)
        assert keypoints.descriptor.shape == (len(keypoints), 128)
        assert keypoints.image_size == shape
    uniform = detectors[name](np.full((64, 64, 3), 90, np.uint8), descriptors=True)
    assert len(uniform) == 0
    assert uniform.xy.shape == (0, 2)
    assert uniform.descriptor.shape == (0, 128)


@pytest.mark.parametrize("workers", [None, 1, 3, 16])
def test_a_batch_is_its_images_in_order(workers):
    batch = np.stack([texture(seed=seed) for seed in range(5)])
    detected = detect(batch, workers=workers)
    assert all(equal(actual, sift(image)) for actual, image in zip(detected, batch, strict=True))
    assert detect(batch[:0]) == []


def test_descriptors_and_options_reach_the_detector():
    batch = texture()[None]
    assert detect(batch)[0].descriptor is None
    assert detect(batch, descriptors=True)[0].descriptor is not None
    assert equal(detect(batch, duplicates="keep")[0], sift(batch[0], duplicates="keep"))
    assert equal(detect(batch, "sift-skimage")[0], sift_skimage(batch[0]))


def test_any_function_is_a_detector():
    def corner(pixels):
        return sift(np.zeros_like(pixels) + pixels[:1, :1])

    assert len(detect(texture()[None], corner)[0]) == 0


def test_an_error_in_a_thread_comes_out():
    def failing(pixels):
        if pixels.max() == 3:
            raise RuntimeError("image 3")
        return sift(pixels)

    batch = np.stack([np.full((32, 32, 3), i, np.uint8) for i in range(5)])
    with pytest.raises(RuntimeError, match="image 3"):
        detect(batch, failing)
    future = detect_async(batch, failing)
    with pytest.raises(RuntimeError, match="image 3"):
        future.result()
    with pytest.raises(ValueError, match="duplicates: unknown name 'all'"):
        detect_async(batch, duplicates="all").result()


def test_start_runs_beside_its_caller():
    go = threading.Event()

    def waiting(pixels):
        assert go.wait(10)
        return sift(pixels)

    batch = np.stack([texture(), texture(seed=1)])
    future = detect_async(batch, waiting)
    assert isinstance(future, Future)
    assert not future.done()
    go.set()
    assert [len(keypoints) for keypoints in future.result()] == [len(one) for one in detect(batch)]


def test_wrong_input_is_refused_before_any_thread():
    batch = texture()[None]
    for call in (detect, detect_async):
        with pytest.raises(ValueError, match="detector: unknown name 'shift'.*mean 'sift'"):
            call(batch, "shift")
        with pytest.raises(ShapeError, match=r"single image is pixels\[None\]"):
            call(batch[0])
        with pytest.raises(ShapeError, match=r"got \(1, 96, 128, 1\)"):
            call(batch[..., :1])
        with pytest.raises(TypeError, match="got float64 — make it with"):
            call(batch / 255)
        with pytest.raises(TypeError, match="got Tensor|uint8"):
            call(torch.from_numpy(batch))


def test_global_threads_of_opencv_stay_as_they_are():
    import cv2

    before = cv2.getNumThreads()
    detect(np.stack([texture()] * 3))
    assert cv2.getNumThreads() == before


def test_views_and_flipped_arrays_are_taken():
    pixels = texture()[:, ::-1]
    assert equal(sift(pixels), sift(np.ascontiguousarray(pixels)))


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 60), st.integers(1, 60))
def test_sift_is_repeatable_and_inside_the_image(seed, height, width):
    pixels = texture(height, width, seed)
    keypoints = sift(pixels)
    assert equal(keypoints, sift(pixels))
    assert (keypoints.xy >= -0.5).all()
    assert (keypoints.xy <= torch.tensor([width - 0.5, height - 0.5])).all()
