import json
import subprocess
import sys

import pytest
import typer

from foveal.cli import main
from foveal.core.errors import InputError

HEAVY = ("torch", "transformers", "numpy", "PIL", "accelerate", "yaml", "tokenizers")


def commands():
    """Every command line that ends before its options: `eval`, `data`, `data scenes` ..."""
    root = typer.main.get_command(main.collect())
    for name, command in root.commands.items():
        yield [name]
        yield from ([name, inner] for inner in getattr(command, "commands", {}))


def with_command(monkeypatch, body):
    """The command line with one command, `go`, that runs `body`."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.callback()(main._root)
    app.command(name="go")(body)
    monkeypatch.setattr(main, "collect", lambda: app)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (FileExistsError(17, "File exists", "a/FILE"), "a/FILE is a file, or lies in one; name another place"),
        (NotADirectoryError(20, "Not a directory", "a/FILE/b"), "a/FILE/b is a file, or lies in one"),
        (
            PermissionError(13, "Permission denied", b"/closed"),
            "cannot read or write /closed (Permission denied)",
        ),
        (OSError(30, "Read-only file system", "/fixed"), "cannot read or write /fixed (Read-only file system)"),
        (FileNotFoundError(2, "No such file or directory", "named"), "named (No such file or directory); name another"),
        (FileNotFoundError(2, "No such file or directory", "named/in/it"), "named/in/it (No such file or directory)"),
    ],
)
def test_a_place_that_cannot_be_used_is_one_line(error, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def go(place: str):
        raise error

    with_command(monkeypatch, go)
    assert main.run(["go", "named"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("foveal: ") and words in line


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError(2, "No such file or directory", "other"),
        FileExistsError(17, "File exists", "."),
        OSError(5, "Input/output error"),
        OSError(9, "Bad file descriptor", 3),
    ],
)
def test_an_error_of_the_system_that_no_place_explains_stays_a_fault(error, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def go(place: str):
        raise error

    with_command(monkeypatch, go)
    with pytest.raises(OSError, match=error.strerror):
        main.run(["go", "named"])


def test_help_is_quick_and_loads_nothing_heavy():
    """Processor time, not the clock: a busy machine must not fail it."""
    code = (
        "import json, sys, time\n"
        "from foveal.cli.main import run\n"
        "code = run(['--help'])\n"
        f"heavy = [name for name in {HEAVY!r} if name in sys.modules]\n"
        "print(json.dumps({'code': code, 'heavy': heavy, 'seconds': time.process_time()}), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    told = json.loads(done.stderr.splitlines()[-1])
    assert (told["code"], told["heavy"]) == (0, [])
    assert told["seconds"] < 0.7
    assert "Usage: foveal" in done.stdout


@pytest.mark.parametrize("command", list(commands()), ids=" ".join)
def test_every_command_explains_itself(command, capsys):
    assert main.run([*command, "--help"]) == 0
    assert f"foveal {' '.join(command)}" in " ".join(capsys.readouterr().out.split())


def test_no_arguments_show_the_help(capsys):
    assert main.run([]) == 0
    assert "Usage: foveal" in capsys.readouterr().out


def test_the_version(capsys):
    assert main.run(["--version"]) == 0
    assert capsys.readouterr().out.startswith("foveal 0.")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["evl"], "No such command 'evl'. Did you mean 'eval'?"), (["--hlep"], "No such option: --hlep")],
)
def test_a_mistyped_command_line_is_one_line_and_2(arguments, said, capsys):
    assert main.run(arguments) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.count("\n") == 1
    assert said in told.err
    assert "see 'foveal --help'" in told.err


def test_bad_input_is_one_line_and_2(monkeypatch, capsys):
    def body():
        raise InputError("3 <image> markers\nbut 2 images; give one a marker")

    with_command(monkeypatch, body)
    assert main.run(["go"]) == 2
    assert capsys.readouterr().err == "foveal: 3 <image> markers but 2 images; give one a marker\n"


BLOCKED = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "accelerate":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
import foveal
from foveal.cli.main import run
sys.exit(run(sys.argv[1:]))
"""


def test_a_package_that_is_not_installed_is_one_line_and_2():
    done = subprocess.run([sys.executable, "-c", BLOCKED, "train", "starter"], capture_output=True, text=True)
    told = "foveal: this needs the package 'accelerate', which is not installed; pip install accelerate\n"
    assert (done.returncode, done.stderr) == (2, told)


def test_a_module_of_ours_that_is_not_there_stays_a_fault(monkeypatch):
    def wants() -> None:
        raise ModuleNotFoundError("No module named 'foveal.gone'", name="foveal.gone")

    with_command(monkeypatch, wants)
    with pytest.raises(ModuleNotFoundError):
        main.run(["go"])


def test_a_wrong_option_value_is_one_line_and_2(monkeypatch, capsys):
    def body(count: int = typer.Option(1)):
        raise AssertionError(count)

    with_command(monkeypatch, body)
    assert main.run(["go", "--count", "many"]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "--count" in told and "integer" in told and "foveal go --help" in told


def test_our_own_fault_is_raised(monkeypatch):
    def body():
        raise ZeroDivisionError

    with_command(monkeypatch, body)
    with pytest.raises(ZeroDivisionError):
        main.run(["go"])


def test_an_interrupt_is_130_and_no_traceback(monkeypatch, capsys):
    def body():
        raise KeyboardInterrupt

    with_command(monkeypatch, body)
    assert main.run(["go"]) == 130
    assert capsys.readouterr().err == "foveal: interrupted\n"


def test_a_command_may_choose_its_exit_code(monkeypatch):
    def body():
        raise typer.Exit(3)

    with_command(monkeypatch, body)
    assert main.run(["go"]) == 3


@pytest.mark.parametrize("module", ["foveal", "foveal.cli.main"])
def test_the_process_ends_with_the_code(module):
    done = subprocess.run([sys.executable, "-m", module, "nonsense"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_a_fault_is_a_traceback_and_1():
    code = (
        "import foveal.cli.main as main, typer\n"
        "app = typer.Typer()\n"
        "app.callback()(main._root)\n"
        "app.command(name='go')(lambda: 1 / 0)\n"
        "main.collect = lambda: app\n"
        "import sys; sys.argv = ['foveal', 'go']\n"
        "main.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stderr


def test_a_reader_that_leaves_is_no_error():
    line = f"{sys.executable} -m foveal.cli.main --help | head -c 1 >/dev/null; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stderr == ""


def test_a_reader_that_closes_early_is_no_fault(tmp_path):
    start = [sys.executable, "-m", "foveal", "systems", "--json"]
    shown = subprocess.Popen(start, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert shown.stdout is not None and shown.stderr is not None
    shown.stdout.close()
    assert shown.stderr.read() == b"" and shown.wait() == 0
    shown.stderr.close()


@pytest.mark.parametrize(
    ("to", "code", "said"), [("&-", 0, ""), ("/dev/full", 2, "foveal: no space left where the output goes;")]
)
def test_output_that_goes_nowhere_is_no_fault_of_ours(to, code, said):
    line = f"{sys.executable} -m foveal --version >{to}"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True)
    assert done.returncode == code
    assert done.stderr.startswith(said) and len(done.stderr.splitlines()) == bool(said)
