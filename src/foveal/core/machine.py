"""What the machine offers to this process."""

import os


def cores() -> int:
    """The processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def device() -> str:
    """The accelerator's name where there is one (its current device), else the processor's.

    Apple's lacks float64, in which some strategies choose, and was never tried: the processor answers there.
    """
    import torch  # not for whoever asks for cores alone

    found = torch.accelerator.current_accelerator(check_available=True)
    return "cpu" if found is None or found.type == "mps" else found.type
