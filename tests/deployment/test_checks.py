import pytest

from foveal.core.errors import InputError
from foveal.deployment import checks


@pytest.mark.parametrize("name", ["", "-a", "a-", "A", "a_b", "a.b", "1a", "a" * 64, "a\n", "\u00e4"])
def test_what_is_no_dns_label_is_refused(name):
    with pytest.raises(InputError, match=r"--name .* is no name in a cluster"):
        checks.label("--name", name)


@pytest.mark.parametrize("words", ["run", "My Run_2", "2024-05", "\u00e4\u00f6", "...", "a" * 200, "-x-"])
def test_any_directory_s_name_becomes_a_label(words):
    assert checks.label("--name", checks.labelled(words), room=20)


def test_a_label_stays_like_its_words():
    assert [checks.labelled(one) for one in ("My Run_2", "2024", "")] == ["my-run-2", "foveal-2024", "foveal"]


@pytest.mark.parametrize(
    "name", ["a", "a:1", "reg.io/a/b:v1.2_x", "reg:5000/a", "a@sha256:" + "0" * 64, "Reg/a", "a__b", "a--b", "a.b_c/d"]
)
def test_names_of_images_pass(name):
    assert checks.image(name) == name


UNNAMED = ["a//b:1", "a..b", "a___b", "a._b", "reg:999999/a", "reg:0/a", "-x-/a", "a" * 300, "re..g/a", "reg.:1/a"]


@pytest.mark.parametrize("name", ["", ":1", "a:", "A", "a b", "-a", "a/", "a:1:2", "a@sha256:1", "a;rm", *UNNAMED])
def test_what_names_no_image_is_refused(name):
    with pytest.raises(InputError, match="names no image"):
        checks.image(name)


def test_whole_numbers_are_those_that_a_cluster_counts():
    checks.whole("--gpus", 0, 0)
    checks.whole("--nodes", 2**31 - 1, 1)
    for number, said in ((0, "--nodes 0; give 1 or more"), (2**31, "--nodes 2147483648 is more than a cluster counts")):
        with pytest.raises(InputError, match=said):
            checks.whole("--nodes", number, 1)


def test_amounts_are_those_of_kubernetes():
    assert [checks.memory("--memory", one) for one in ("8Gi", "1.5Gi", "500M", "123")] == [8 << 30, 3 << 29, 5e8, 123]
    assert [checks.cores("--cpus", one) for one in ("4", "500m", "0.5")] == [4, 0.5, 0.5]
    for wrong in ("", "0", "0Gi", "8gi", "8 Gi", "-1Gi", "1e3", "8GiB"):
        with pytest.raises(InputError, match="no amount of memory"):
            checks.memory("--memory", wrong)
    for wrong in ("", "0", "0m", "-1", "4c", "nan"):
        with pytest.raises(InputError, match="no number of cores"):
            checks.cores("--cpus", wrong)


@pytest.mark.parametrize(
    ("count", "told"), [(1, "256Mi"), (1 << 30, "1Gi"), ((1 << 30) + 1, "1280Mi"), (3 << 29, "1536Mi")]
)
def test_bytes_are_rounded_up_to_quarters(count, told):
    assert checks.gib(count) == told and count <= checks.memory("--memory", told) < count + (1 << 28)
