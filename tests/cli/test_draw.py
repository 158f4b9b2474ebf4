import pytest
from PIL import Image

from foveal.cli.main import run
from tests.tiny import tiny_painter


@pytest.fixture(scope="module")
def painter(tmp_path_factory):
    return tiny_painter(["draw a fox"]).save(tmp_path_factory.mktemp("painter") / "run")


def test_a_picture_out_of_words(painter, tmp_path, capsys):
    made = []
    for seed in (0, 0, 1):
        out = tmp_path / f"{len(made)}.png"
        assert run(["draw", "draw a fox", "--run", str(painter), "--out", str(out), "--seed", str(seed)]) == 0
        assert capsys.readouterr().out.strip() == str(out)
        with Image.open(out) as picture:
            made.append(picture.tobytes())
    assert made[0] == made[1] != made[2]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([" ", "--run", "{painter}"], "the prompt is empty"),
        (["draw", "--run", "{tiny}"], "writes words alone"),
        (["draw", "--run", "{painter}", "--temperature", "0"], "temperature is 0"),
        (["draw", "--run", "{painter}", "--out", "nowhere/fox.png"], "cannot write nowhere/fox.png"),
        (["draw", "--run", "{painter}", "--out", "fox"], "ends in .png"),
        (["draw"], "--run"),
    ],
)
def test_bad_input_is_one_line_and_2(painter, tiny, arguments, said, capsys):
    assert run(["draw", *(word.format(painter=painter, tiny=tiny.run) for word in arguments)]) == 2
    told = capsys.readouterr()
    assert said in told.err and told.err.count("\n") == 1 and told.out == ""
