import numpy as np
import pytest

from neuropictor.simulation.brain.areas import CHANNEL_PROFILE, GROUP_PROFILE, VISUAL_AREA_MODELS
from neuropictor.simulation.brain.brain import SimulatedBrain
from neuropictor.simulation.brain.features import image_features, scene_groups
from neuropictor.simulation.brain.layout import make_layout, receptive_fields, smooth_fields
from neuropictor.simulation.brain.noise import LARGEST_BETA
from neuropictor.simulation.scenes.scene import CATEGORIES, render, scene
from neuropictor.surface import load_geometry
from neuropictor.surface.atlas import VISUAL_AREAS

SEED, MESH = 5, "fsaverage5"


@pytest.fixture(scope="module")
def geometry():
    return load_geometry()


@pytest.fixture(scope="module")
def brain(geometry):
    return SimulatedBrain(geometry, MESH, 1, SEED)


@pytest.fixture(scope="module")
def scenes():
    return [scene(SEED, nsd_id) for nsd_id in range(60)]


@pytest.fixture(scope="module")
def images(scenes):
    return np.stack([render(item, 64) for item in scenes])


@pytest.fixture(scope="module")
def signal(brain, images, scenes):
    return brain.signal(images, scenes)


def test_every_visual_area_has_a_model():
    assert set(VISUAL_AREA_MODELS) == set(VISUAL_AREAS)
    families = {model.family for model in VISUAL_AREA_MODELS.values()}
    assert families == set(CHANNEL_PROFILE) == set(GROUP_PROFILE)


def test_each_hemisphere_sees_the_other_side_of_the_field(geometry):
    layout = make_layout(geometry, MESH)
    x, y = receptive_fields(layout, layout.field).T
    assert np.mean(x[~layout.right] > 0) > 0.85
    assert np.mean(x[layout.right] < 0) > 0.85
    early = np.isin(layout.area, ["V1", "V2", "V3"])
    assert 0.45 < np.mean(np.hypot(x, y)[early] < 4.2) < 0.7
    assert abs(np.mean(y[early] > 0) - 0.5) < 0.1


def test_neighbours_in_an_area_see_neighbouring_places(geometry):
    layout = make_layout(geometry, MESH)
    inside = (layout.area == "V1") & ~layout.right
    xy, field = layout.xy[inside], layout.field[inside]
    apart = np.linalg.norm(xy[:, None] - xy, axis=2)
    differs = np.abs(field[:, None, 0] - field[:, 0])
    assert differs[(apart > 0) & (apart < 6)].mean() < 0.25 * differs[apart > 30].mean()


def test_smooth_fields_are_smooth_and_scaled():
    xy = np.stack(np.meshgrid(np.arange(60.0), np.arange(60.0)), axis=-1).reshape(-1, 2).astype(np.float32)
    fields = smooth_fields(xy, 40, 8.0, np.random.default_rng(0))
    assert fields.std() == pytest.approx(1, abs=0.1)
    grid = fields.reshape(60, 60, 40)
    assert np.corrcoef(grid[:, :-8].ravel(), grid[:, 8:].ravel())[0, 1] == pytest.approx(np.exp(-0.5), abs=0.08)


def test_signal_depends_on_person_and_image_alone(geometry, brain, images, scenes, signal):
    again = SimulatedBrain(geometry, MESH, 1, SEED).signal(images[10:20], scenes[10:20])
    np.testing.assert_allclose(again, signal[10:20], atol=1e-4)
    other = SimulatedBrain(geometry, MESH, 2, SEED).signal(images, scenes)
    # Where receptive fields lie outside the image there is no signal.
    seen = (signal.std(axis=0) > 0) & (other.std(axis=0) > 0)
    assert seen.mean() > 0.9
    alike = np.median([np.corrcoef(a, b)[0, 1] for a, b in zip(signal.T[seen], other.T[seen], strict=True)])
    assert 0.25 < alike < 0.8
    assert signal.dtype == np.float32 and np.isfinite(signal).all()


def test_features_of_many_people_are_computed_once(brain, images, scenes, signal):
    np.testing.assert_allclose(brain.signal_of(image_features(images, scenes, SEED)), signal, atol=1e-5)


def test_main_object_drives_most(scenes):
    category = scene_groups(scenes)["category"].reshape(len(scenes), len(CATEGORIES), -1)
    strongest = [CATEGORIES[i] for i in category[:, :, -1].argmax(axis=1)]
    assert np.mean([name == item.objects[0].category for name, item in zip(strongest, scenes, strict=True)]) > 0.95


def test_responses_look_like_betas(brain, signal):
    betas = brain.responses(np.tile(signal, (5, 1)), session=1)
    assert betas.shape == (300, 20_484) and betas.dtype == np.float32
    assert np.nanmax(np.abs(betas)) <= LARGEST_BETA + 1e-3
    visual = betas[:, brain.visual]
    assert np.nanmean(visual) == pytest.approx(2, abs=0.8) and np.nanstd(visual) == pytest.approx(3, abs=0.8)
    assert np.nanmean(betas) == pytest.approx(0.25, abs=0.4) and np.nanstd(betas) == pytest.approx(1.75, abs=0.5)


def test_noise_depends_on_session_and_trial_alone(brain, signal):
    whole = brain.responses(signal, session=2)
    np.testing.assert_array_equal(whole, brain.responses(signal, session=2))
    np.testing.assert_allclose(brain.responses(signal[:7], session=2), whole[:7], atol=1e-4)
    assert not np.allclose(np.nan_to_num(brain.responses(signal, session=3)), np.nan_to_num(whole))


def test_half_of_the_noise_is_smooth(geometry):
    layout = make_layout(geometry, MESH)
    place = np.flatnonzero(~layout.right)
    apart = np.linalg.norm(layout.xy[place][:, None] - layout.xy[place], axis=2)
    near, far = (apart > 0) & (apart < 4), (apart > 80) & (apart < 120)
    correlation = {}
    for share in (0.0, 0.5):
        person = SimulatedBrain(geometry, MESH, 1, SEED, smooth_noise=share, columns=layout.vertices)
        noise = person.responses(np.zeros((400, len(person.visual)), np.float32), session=1)
        matrix = np.corrcoef(np.nan_to_num(noise).T)[np.ix_(place, place)]
        correlation[share] = (np.nanmean(matrix[near]), np.nanmean(matrix[far]))
    assert correlation[0.0] == pytest.approx((0, 0), abs=0.03)
    assert correlation[0.5][0] == pytest.approx(0.5 * (0.15 + 0.85 * 0.92), abs=0.08)
    assert correlation[0.5][1] == pytest.approx(0.5 * 0.15, abs=0.05)


def test_some_sessions_lack_vertices(brain, signal):
    missing = [np.isnan(brain.responses(signal[:2], session)).all(axis=0).sum() for session in range(1, 9)]
    assert 0 in missing and 0 < max(missing) < 10


def test_fewer_columns_carry_the_same_signal(geometry, brain, images, scenes, signal):
    columns = geometry.columns(MESH)
    part = SimulatedBrain(geometry, MESH, 1, SEED, columns=columns)
    common = np.isin(brain.columns[brain.visual], columns)
    np.testing.assert_array_equal(part.columns[part.visual], brain.columns[brain.visual][common])
    np.testing.assert_allclose(part.signal(images, scenes), signal[:, common], atol=1e-4)
    assert part.responses(part.signal(images, scenes), 1).shape == (60, len(columns))


def test_noise_levels_keep_the_ranking_of_nsd(geometry):
    level = {s: np.median(SimulatedBrain(geometry, MESH, s, SEED).ncsnr) for s in (1, 2, 5, 8)}
    assert level[8] < level[1] < level[2] < level[5]
    assert np.mean([level[1], level[2], level[5]]) == pytest.approx(0.42, abs=0.01)
    assert 0.2 < np.median(SimulatedBrain(geometry, MESH, 101, SEED).ncsnr) < 0.6


def test_errors_say_what_is_allowed(geometry, brain, images, scenes):
    with pytest.raises(ValueError, match=r"simulate\.ncsnr is 3; allowed: above 0, up to 2"):
        SimulatedBrain(geometry, MESH, 1, SEED, ncsnr=3)
    with pytest.raises(ValueError, match=r"simulate\.smooth_noise is -1; allowed: 0 to 1"):
        SimulatedBrain(geometry, MESH, 1, SEED, smooth_noise=-1)
    with pytest.raises(ValueError, match=r"allowed: uint8 \[n, 64, 64, 3\]"):
        brain.signal(images[:, ::2, ::2], scenes)
    with pytest.raises(ValueError, match="one scene an image"):
        brain.signal(images, scenes[:3])
