"""Files of videos: every frame is found, decoded as in order, and what is broken is told."""

import struct

import av
import numpy as np
import pytest

from foveal.core.errors import InputError
from foveal.preprocess.video import Frames, open_video
from foveal.preprocess.video_files import decoded, shown

COUNT, RATE = 40, 10


def written(path, *, codec="libx264", options=None, size=(64, 48), moved=False):
    """A video whose frame `k` has the grey level 6 k on its left half and 255 - 6 k on its right."""
    container = av.open(str(path), "w", options={"movflags": "faststart"} if moved else {})
    stream = container.add_stream(codec, rate=RATE)
    stream.width, stream.height, stream.bit_rate = *size, 4_000_000
    stream.pix_fmt = "yuv420p"
    stream.options = options or {}
    for number in range(COUNT):
        grey = np.full((size[1], size[0], 3), 6 * number, np.uint8)
        grey[:, size[0] // 2 :] = 255 - 6 * number
        container.mux(stream.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")))
    container.mux(stream.encode())
    container.close()
    return path


def numbers(pictures):
    return [round(np.asarray(one)[8:40, 8:24, 0].mean() / 6) for one in pictures]


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("a.mp4", "libx264", {"g": "7", "bf": "2"}),
        ("a.mp4", "libx264", {"g": "1000", "bf": "3"}),
        ("a.mkv", "libx264", {"g": "5"}),
        ("a.webm", "libvpx-vp9", {"g": "9"}),
        ("a.avi", "mpeg4", {"g": "6"}),
    ],
)
def test_frames_are_those_that_decoding_in_order_gives(tmp_path, name, codec, options):
    path = written(tmp_path / name, codec=codec, options=options)
    with av.open(str(path)) as container:
        every = [frame.to_image() for frame in container.decode(container.streams.video[0])]
    assert len(every) == COUNT == len(shown(path))
    assert [frame.seconds for frame in shown(path)] == pytest.approx([k / RATE for k in range(COUNT)], abs=2e-3)
    for wanted in ([0], [39], [3, 4, 30], [0, 13, 26, 39], list(range(COUNT))):
        found = decoded(path, wanted)
        assert numbers(found) == wanted
        for number, picture in zip(wanted, found, strict=True):
            assert np.array_equal(np.asarray(picture), np.asarray(every[number]))


def test_a_video_is_sampled_by_number_and_pace(tmp_path):
    path = written(tmp_path / "a.mp4")
    few = open_video(path, Frames(count=4))
    assert numbers(few.frames) == [0, 13, 26, 39] and few.seconds == pytest.approx((0, 1.3, 2.6, 3.9))
    assert numbers(open_video(path, Frames(fps=1.0)).frames) == [0, 10, 20, 30]
    assert len(open_video(path, Frames(count=100)).frames) == COUNT


def test_a_video_that_is_to_be_turned_is_upright(tmp_path):
    path = written(tmp_path / "a.mp4")
    plain = decoded(path, [5])[0]
    data = bytearray(path.read_bytes())
    place = data.index(b"tkhd") + 44  # where the matrix is in a header of version 0
    assert struct.unpack(">9i", data[place : place + 36])[0] == 0x10000
    data[place : place + 36] = struct.pack(">9i", 0, 0x10000, 0, -0x10000, 0, 0, 48 << 16, 0, 0x40000000)
    (tmp_path / "turned.mp4").write_bytes(data)
    turned = decoded(tmp_path / "turned.mp4", [5])[0]
    assert turned.size == (48, 64) and np.array_equal(np.asarray(turned), np.rot90(np.asarray(plain), -1))


def cut(path, share):
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    return path


def test_what_is_no_whole_video_is_told(tmp_path):
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "words.mp4").write_text("these are words, not a video")
    written(tmp_path / "head.mp4", moved=True)
    cut(written(tmp_path / "headless.mp4"), 0.6)
    cut(tmp_path / "head.mp4", 0.8)
    sound = av.open(str(tmp_path / "sound.mkv"), "w")
    voice = sound.add_stream("aac", rate=8000)
    frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
    frame.sample_rate = 8000
    sound.mux(voice.encode(frame))
    sound.mux(voice.encode())
    sound.close()
    for name, told in {
        "absent.mp4": "absent.mp4 cannot be read",
        "empty.mp4": "is empty .0 bytes",
        "words.mp4": "is no video that PyAV reads .it begins with b'these are wo'",
        "headless.mp4": "is damaged or truncated .its head does not read",
        "head.mp4": r"is damaged or truncated: \d+ of 40 frames are there",
        "sound.mkv": "holds no pictures, only 1 other streams",
    }.items():
        with pytest.raises(InputError, match=told) as caught:
            open_video(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_a_frame_that_does_not_decode_is_told(tmp_path):
    path = written(tmp_path / "a.mp4", options={"g": "1000", "bf": "0"})
    with av.open(str(path)) as container:
        spans = [(packet.pos, packet.size) for packet in container.demux(container.streams.video[0]) if packet.size]
    data = bytearray(path.read_bytes())
    for place, size in spans[20:]:
        data[place : place + size] = b"\xff" * size
    path.write_bytes(data)
    assert numbers(decoded(path, [10])) == [10]
    with pytest.raises(InputError, match="frame 30 of 40 does not decode"):
        decoded(path, [10, 30])
