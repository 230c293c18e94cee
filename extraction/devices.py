"""The device and the number format that a configuration names."""

import os

import torch

from extraction.errors import InputError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def choose_device(name: str) -> torch.device:
    """The device of `encoder.device`: auto (a GPU where there is one), cpu, cuda or cuda:N.

    Of several GPUs, auto takes the one that torchrun gives the process. Raises InputError for what is not
    there.
    """
    if name == "auto":
        if not torch.cuda.is_available():
            return torch.device("cpu")
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count())
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError):
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise InputError(f"encoder.device must be auto, cpu, cuda or cuda:N, not {name!r}")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(
            f"encoder.device is {name}, but torch sees {torch.cuda.device_count()} GPUs: choose cpu or auto"
        )
    return device
