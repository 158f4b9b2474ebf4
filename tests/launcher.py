"""Commands of Foveal in several processes that train together, as a launcher starts them."""

import os
import socket
import subprocess
import sys


def two_processes(*arguments, module="foveal.cli.main"):
    """What a command, or another module, writes to stderr in two processes."""
    return processes(2, *arguments, module=module)


def processes(count, *arguments, module="foveal.cli.main"):
    """The same in so many processes; no name of the machine is looked up."""
    loopback = next(name for _, name in socket.if_nameindex() if name.startswith("lo"))
    launcher = ["-m", "torch.distributed.run", "--standalone", "--local-addr=127.0.0.1", f"--nproc-per-node={count}"]
    done = subprocess.run(
        [sys.executable, *launcher, "-m", module, *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": loopback},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stderr
