"""Scenes: deterministic, varied, and described as they are painted."""

import numpy as np
import pytest

from neuropictor.simulation.scenes.scene import (
    BACKGROUNDS,
    CATEGORIES,
    COLOURS,
    captions,
    reduce_image,
    render,
    scene,
)


def test_a_scene_is_a_function_of_seed_and_number():
    assert scene(1, 5) == scene(1, 5)
    assert scene(1, 5) != scene(2, 5)
    assert scene(1, 5) != scene(1, 6)
    np.testing.assert_array_equal(render(scene(1, 5), 64), render(scene(1, 5), 64))


def test_everything_occurs_and_nothing_dominates():
    scenes = [scene(3, number) for number in range(1500)]
    for names, found in (
        (CATEGORIES, [item.objects[0].category for item in scenes]),
        (COLOURS, [item.objects[0].colour for item in scenes]),
        (BACKGROUNDS, [item.background for item in scenes]),
    ):
        counts = np.array([found.count(name) for name in names]) / len(scenes)
        assert counts.min() > 0.5 / len(names)
        assert counts.max() < 1.6 / len(names)
    assert len(CATEGORIES) >= 12
    assert {len(item.objects) for item in scenes} == {1, 2, 3}


@pytest.mark.parametrize("background", BACKGROUNDS)
def test_each_background_is_painted(background):
    found = next(item for item in (scene(3, number) for number in range(500)) if item.background == background)
    image = render(found, 64)
    assert image.shape == (64, 64, 3)
    assert image.dtype == np.uint8
    assert image.std() > 5


def test_the_main_object_is_the_largest_and_lies_inside():
    for number in range(300):
        main, *others = scene(4, number).objects
        assert all(main.size > other.size for other in others)
        assert main.x - 0.4 * main.size > 0 and main.x + 0.4 * main.size < 1


def test_size_changes_only_the_sharpness():
    small, large = render(scene(5, 1), 64), reduce_image(render(scene(5, 1), 425), 64)
    assert np.corrcoef(small.ravel(), large.ravel())[0, 1] > 0.97


def test_captions_name_what_is_there():
    for number in range(50):
        item = scene(6, number)
        lines = captions(item)
        assert len(lines) == 5
        assert all(item.objects[0].category in line for line in lines)
        assert item.objects[0].colour in lines[0]
        assert max(len(line.split()) for line in lines) <= 22  # two fewer than the miniature's context


def test_the_mean_image_tells_little():
    images = np.stack([render(scene(7, number), 32) for number in range(400)]).astype(float).reshape(400, -1)
    mean = images[:300].mean(0)
    assert np.mean([np.corrcoef(mean, image)[0, 1] for image in images[300:]]) < 0.2
