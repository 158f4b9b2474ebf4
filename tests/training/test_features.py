"""Cached features: the loss of pixels without the pixels."""

import errno
import importlib
import json
import os
import pickle
import shutil
import sys
import time
from collections import namedtuple
from dataclasses import replace
from functools import partial

import pytest
import torch
from PIL import Image

from foveal.core.errors import InputError
from foveal.core.types import Batch, Layout, Pixels, VisualTokens
from foveal.models.parts import encoded
from foveal.preprocess.image import Whole
from foveal.preprocess.tiling import Tiling
from foveal.preprocess.transform import ImageTransform
from foveal.preprocess.video import Frames, pixels
from foveal.training import features
from foveal.training.config import Stage
from foveal.training.features import Store, fill, identity
from foveal.training.objectives.next_token import next_token


@pytest.fixture
def images(world):
    return list(dict.fromkeys(image for example in world.data for image in example.images))


def filled(world, model, folder, images, **settings):
    store = Store(folder, settings.pop("dtype", "fp32"))
    fill(store, images, encoder=model.vision, look=world.processor.transform.pixels, batch_size=5, **settings)
    return store


@pytest.mark.parametrize(("dtype", "tolerance"), [("fp32", 1e-6), ("fp16", 2e-3), ("bf16", 2e-2)])
def test_the_loss_is_that_of_pixels(world, tmp_path, images, dtype, tolerance):
    model = world.model().eval()
    store = filled(world, model, tmp_path, images, dtype=dtype)
    groups = [[example] for example in world.data[:6]]
    stage = Stage(steps=1)
    with torch.no_grad():
        from_pixels, count = next_token(model, world.collate(model)(stage)(groups))
        model.vision.register_forward_hook(lambda *_: pytest.fail("the encoder ran"))
        from_store, _ = next_token(model, world.collate(model, visual=store)(stage)(groups))
    assert from_store.item() / count == pytest.approx(from_pixels.item() / count, rel=tolerance)


def test_each_image_is_encoded_once_and_only_what_is_missing(world, tmp_path, images):
    model, seen = world.model().eval(), []
    model.vision.register_forward_hook(lambda part, given, out: seen.append(given[0].values.shape[0]))
    store = filled(world, model, tmp_path, [*images[:7], *images[:7]])
    assert sum(seen) == 7
    again = filled(world, model, tmp_path, images)
    assert sum(seen) == len(images)
    whole = world.model().eval().vision(world.processor.transform.pixels(images))
    torch.testing.assert_close(again(images).features, whole.features, atol=1e-6, rtol=0)
    assert again(images).layout == whole.layout
    assert store.missing(images) == images[7:]
    torch.testing.assert_close(pickle.loads(pickle.dumps(again))(images[3:4]).features, again(images[3:4]).features)


def test_frames_of_videos_are_kept_together(world, tmp_path, images):
    folder = tmp_path / "clip"
    folder.mkdir()
    for number in range(3):
        shutil.copy(images[number], folder / f"{number}.png")
    model, shown = world.model().eval(), [images[3], folder, images[4]]
    settings = Frames(count=2)
    store = Store(tmp_path / "kept", "fp32")
    fill(
        store,
        shown,
        encoder=partial(encoded, model.vision),
        look=lambda some: pixels(some, world.processor.transform, settings),
    )
    again = Store(tmp_path / "kept", "fp32")(shown)
    frames = model.vision(world.processor.transform.pixels([images[3], images[0], images[2], images[4]]))
    torch.testing.assert_close(again.features, frames.features, atol=1e-6, rtol=0)
    whole = frames.filmed((1, 2, 1))
    assert again.layout == whole.layout and torch.equal(again.frame, whole.frame)
    assert torch.equal(again.boxes, whole.boxes)
    assert Store(tmp_path / "kept", "fp32")([images[4]]).layout.frames is None
    shutil.copy(images[5], folder / "1.png")
    assert store.missing(shown) == [folder]


def test_an_interrupted_encoding_goes_on_where_it_stopped(world, tmp_path, images, monkeypatch):
    monkeypatch.setattr(features, "SHARD", 5)
    model, done = world.model().eval(), []

    def stop(number):
        done.append(number)
        if sum(done) == 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        filled(world, model, tmp_path, images, progress=stop)
    assert Store(tmp_path, "fp32").missing(images) == images[10:]
    assert not list(tmp_path.glob(".partial*"))
    assert filled(world, model, tmp_path, images).missing(images) == []


@pytest.mark.parametrize(
    "harm",
    [
        lambda rows, index: rows.write_bytes(rows.read_bytes()[:-4]),
        lambda rows, index: rows.unlink(),
        lambda rows, index: index.write_text(index.read_text()[:40]),
        lambda rows, index: index.write_text("[]"),
    ],
)
def test_what_was_damaged_is_encoded_again(world, tmp_path, images, monkeypatch, harm):
    monkeypatch.setattr(features, "SHARD", 5)
    model = world.model().eval()
    whole = filled(world, model, tmp_path, images)(images).features
    rows = next(tmp_path.glob("*.bin"))
    held = len(json.loads(rows.with_suffix(".json").read_text())["images"])
    harm(rows, rows.with_suffix(".json"))
    with pytest.warns(UserWarning, match=f"features in {rows} are damaged; they are made anew"):
        assert len(Store(tmp_path, "fp32").missing(images)) == held
    assert torch.equal(filled(world, model, tmp_path, images)(images).features, whole)


def test_a_changed_image_is_encoded_again(world, tmp_path, images):
    model, copy = world.model().eval(), tmp_path / "copy.png"
    shutil.copy(images[0], copy)
    store = filled(world, model, tmp_path / "store", [copy])
    os.utime(copy, ns=(1, 1))
    assert store.missing([copy]) == [copy]
    with pytest.raises(InputError, match=r"no features of .*copy.png"):
        store([copy])


def test_a_whole_picture_is_another_than_its_tiles(world, tmp_path, images):
    model, look = world.model().eval(), replace(world.processor.transform, tiling=None)
    edge = look.grid[0]
    look = replace(look, tiling=Tiling(tile=edge, pinpoints=((edge, 2 * edge),), alone=True))
    shown, store = [images[0], Whole(image=images[0])], Store(tmp_path, "fp32")
    fill(store, shown, encoder=partial(encoded, model.vision), look=look.pixels)
    seen = store(shown[::-1])
    assert [cut.tiles for cut in seen.cuts] == [1, 3] and store.missing(shown) == []


def test_other_levels_come_along(tmp_path, images):
    def encoder(pixels):
        features = torch.arange(2.0 * 3).reshape(2, 3)
        return VisualTokens.on_layout(features, layout(), (features + 10, features[:, :1] + 20))

    def layout():
        return Layout.of_grids([(1, 2)])

    store = Store(tmp_path, "fp32")
    fill(store, images[:1], encoder=encoder, look=lambda names: Pixels.whole(torch.zeros(1, 3, 1, 1)), batch_size=1)
    read = store(images[:1])
    assert [level.tolist() for level in read.levels] == [[[10, 11, 12], [13, 14, 15]], [[20], [23]]]


def test_a_feature_that_the_stores_type_does_not_hold_is_refused(tmp_path, images):
    def encoder(given):
        features = torch.tensor([[1.0, float("inf")], [-1e5, 2.0]])
        return VisualTokens.on_layout(features, Layout.of_grids([(1, 1)] * 2))

    def keep(dtype):
        store = Store(tmp_path / dtype, dtype)
        fill(store, images[:2], encoder=encoder, look=lambda names: Pixels.whole(torch.zeros(2, 3, 1, 1)))
        return store(images[:2]).features

    told = r"a feature is -100000, and fp16 holds up to 65504; set training.features.dtype to bf16 or fp32"
    with pytest.raises(InputError, match=told):
        keep("fp16")
    assert Store(tmp_path / "fp16").places == {}
    assert keep("fp32").tolist() == [[1, float("inf")], [-1e5, 2]]  # what the encoder itself says is kept
    assert keep("bf16")[1].tolist() == pytest.approx([-1e5, 2], rel=1e-2)


def test_a_disk_without_room_is_told_before_the_work(world, tmp_path, images, monkeypatch):
    model, said = world.model().eval(), []
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(features.shutil, "disk_usage", lambda folder: usage(10, 9, 1))
    with pytest.raises(InputError, match=r"features of 12 images take 2 kB, but 1 B are free"):
        filled(world, model, tmp_path, images, say=said.append)
    assert "12 images take 2 kB" in said[0]
    assert Store(tmp_path, "fp32").places == {}


def test_a_disk_that_fills_up_is_told_and_leaves_what_is_whole(world, tmp_path, images, monkeypatch):
    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(features.os, "fsync", full)
    with pytest.raises(InputError, match=r"no space left in .* for cached features"):
        filled(world, world.model().eval(), tmp_path, images)
    assert list(tmp_path.iterdir()) == []


def test_a_store_belongs_to_weights_and_settings(world):
    one, other = world.model().vision, world.model(seed=1).vision
    assert identity(one, size=16) == identity(world.model().vision, size=16)
    assert len({identity(one, size=16), identity(other, size=16), identity(one, size=32)}) == 3


def test_a_store_belongs_to_the_file_of_an_encoder_of_others(world, tmp_path, monkeypatch):
    def described(gain):
        (tmp_path / "strange_eye.py").write_text(
            "import torch\n\n\nclass Eye(torch.nn.Module):\n"
            f"    def forward(self, pixels):\n        return pixels * {gain}\n"
        )
        sys.modules.pop("strange_eye", None)
        importlib.invalidate_caches()
        return identity(torch.nn.Sequential(world.model().vision, importlib.import_module("strange_eye").Eye()))

    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    assert described(1) == described(1) != described(2)


def test_a_store_belongs_to_buffers_that_are_not_saved(world):
    one, other, third = (world.model().vision for _ in range(3))
    for vision, value in ((one, 1.0), (other, 2.0), (third, 1.0)):
        vision.register_buffer("scale", torch.tensor(value), persistent=False)
    assert identity(one) == identity(third) != identity(other)


@torch.no_grad()
def test_an_encoder_of_foveal_keeps_the_store_that_it_had(world):
    vision = world.model().vision
    for parameter in vision.parameters():
        parameter.fill_(0.5)
    assert identity(vision, size=16) == "f679ca22f1bae53048e8"


@pytest.mark.parametrize("tiling", [Tiling(kind="grid", tile=16, most=3), Tiling(kind="uhd", tile=16, patch=8)])
def test_tiles_are_kept_with_how_their_image_is_cut(world, tmp_path, images, tiling):
    model = world.model().eval()
    transform, see = ImageTransform(size=16, tiling=tiling), partial(encoded, model.vision)
    wide = tmp_path / "wide.png"
    Image.open(images[0]).resize((40, 18)).save(wide)
    shown = [images[0], wide, images[1]]
    fill(Store(tmp_path / "kept", "fp32"), shown, encoder=see, look=transform.pixels)
    with torch.no_grad():
        fresh = see(transform.pixels(shown))
    again = Store(tmp_path / "kept", "fp32")(shown)
    torch.testing.assert_close(again.features, fresh.features, atol=1e-5, rtol=0)
    assert again.cuts == fresh.cuts and again.layout == fresh.layout and again.cuts[1].tiles > 1
    ids = torch.zeros(1, 1, dtype=torch.long)
    batch = Batch(
        input_ids=ids, valid=ids == 0, prompt=ids == 0, image_slot=ids - 1, visual=again, owner=ids[0].repeat(3)
    )
    made = model.see(batch)
    assert made.layout == model.plan(list(again.cuts)) and made.cuts is None
    torch.testing.assert_close(made.features, model.see(replace(batch, visual=transform.pixels(shown))).features)


def test_pictures_without_a_file_are_refused(tmp_path):
    with pytest.raises(InputError, match="image files alone"):
        Store(tmp_path).missing([object()])
    with pytest.raises(InputError, match="cannot read the image"):
        Store(tmp_path).missing([tmp_path / "absent.png"])


def test_processes_of_a_launcher_open_pictures_by_their_share_of_the_cores(monkeypatch):
    monkeypatch.setattr(features, "cores", lambda: 9)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert features._threads() == 4
    monkeypatch.delenv("LOCAL_WORLD_SIZE")
    assert features._threads() == torch.get_num_threads()


def test_pictures_are_opened_by_many_and_kept_in_order(world, tmp_path, images, monkeypatch):
    model, busy, most = world.model().eval(), [], []
    monkeypatch.setattr(torch, "get_num_threads", lambda: 5)

    def slow(some):
        busy.append(some)
        most.append(len(busy))
        time.sleep(0.02 * (len(most) % 3))  # the first is not the first to be done
        made = world.processor.transform.pixels(some)
        busy.remove(some)
        return made

    store = Store(tmp_path, "fp32")
    fill(store, images, encoder=model.vision, look=slow, batch_size=1)
    whole = model.vision(world.processor.transform.pixels(images))
    torch.testing.assert_close(store(images).features, whole.features, atol=1e-6, rtol=0)
    assert 1 < max(most) <= 4


def test_a_folder_that_cannot_be_is_told(world, tmp_path, images):
    (tmp_path / "file").write_text("")
    with pytest.raises(
        InputError, match=r"cannot write features to .*file.deep \(Not a directory\); give training.feat"
    ):
        filled(world, world.model().eval(), tmp_path / "file" / "deep", images)
