"""What the machine offers to this process."""

import os


def cores() -> int:
    """The processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def device() -> str:
    """The accelerator's name where there is one (its current device), else the processor's."""
    import torch  # not for whoever asks for cores alone

    found = torch.accelerator.current_accelerator(check_available=True)
    return "cpu" if found is None else found.type
