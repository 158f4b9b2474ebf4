import sys

import pytest

from foveal.ray_train import command, main


def test_each_node_starts_torchrun_where_the_first_is():
    line = command(["demo", "seed=1"], nodes=2, rank=1, processes=8, meet="10.0.0.1:29400")
    assert line[:3] == [sys.executable, "-m", "torch.distributed.run"]
    assert line[-5:] == ["-m", "foveal", "train", "demo", "seed=1"]
    told = {"--nnodes=2", "--node-rank=1", "--nproc-per-node=8", "--master-addr=10.0.0.1", "--master-port=29400"}
    assert told == set(line[3:-5])


def test_what_it_is_not_told_is_refused(capsys):
    with pytest.raises(SystemExit):
        main(["--nodes", "2"])
    assert "words" in capsys.readouterr().err
