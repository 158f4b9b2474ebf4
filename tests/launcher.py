"""Commands of Foveal in two processes that train together, as a launcher starts them."""

import os
import socket
import subprocess
import sys


def two_processes(*arguments):
    """What a command writes to stderr in two processes; they find one another by no name of the machine."""
    loopback = next(name for _, name in socket.if_nameindex() if name.startswith("lo"))
    launcher = ["-m", "torch.distributed.run", "--standalone", "--local-addr=127.0.0.1", "--nproc-per-node=2"]
    done = subprocess.run(
        [sys.executable, *launcher, "-m", "foveal.cli.main", *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": loopback},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stderr
