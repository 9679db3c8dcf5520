"""torch, the devices that it sees, and the attention kernels that work on one of them."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import torch

from srum_plugins.attention.contract import FirstOf, Heads
from srum_plugins.attention.probe import kernel_of, tried
from srum_plugins.doctor.finding import Finding
from srum_plugins.host import PluginHost
from srum_plugins.providers import Kind

GIB = 2**30
DRIVER = Path("/proc/driver/nvidia/version")
BUSY = 0.5
"""Share of a device's memory in use from which others are likely at work there."""
HEADS = {"cpu": Heads(4, 2, 64, "float32"), "cuda": Heads(4, 2, 128, "bfloat16")}
"""What kernels are tried with where no adapter says: grouped queries, in what models of that device are mostly kept
in."""


def devices() -> Iterator[Finding]:
    """torch's build, and every CUDA device with its memory; whether driver and build fit together."""
    build = torch.version.cuda and f"CUDA {torch.version.cuda}"
    driver = _driver()
    with warnings.catch_warnings(record=True) as caught:  # torch says in a warning why it finds no device
        warnings.simplefilter("always")
        there = torch.cuda.is_available()
    said = f"{torch.__version__}, built for {build or 'the CPU'}"
    if there:
        yield Finding("torch", "ok", f"{said}{f', NVIDIA driver {driver}' if driver else ''}")
        for index in range(torch.cuda.device_count()):
            yield _device(index)
    elif driver and not build:
        mend = "to use the GPU, install a torch that is built for CUDA (https://pytorch.org/get-started/locally)"
        yield Finding("torch", "warning", f"{said}, on a machine with the NVIDIA driver {driver}", mend)
    elif driver:
        why = "; ".join(" ".join(str(one.message).split()) for one in caught) or "it sees no device"
        mend = "update the driver, or install a torch that is built for an older CUDA; is CUDA_VISIBLE_DEVICES empty?"
        yield Finding("torch", "problem", f"{said}, cannot use the NVIDIA driver {driver}: {why}", mend)
    else:
        yield Finding("torch", "ok", f"{said}; no GPU is found here")
    yield Finding("device cpu", "ok", f"{torch.get_num_threads()} threads")


def attention(host: PluginHost, device: str) -> Iterator[Finding]:
    """Every kernel that is installed, really tried on a device, and which one ``auto`` takes there."""
    kind = torch.device(device).type
    heads = HEADS.get(kind, HEADS["cpu"])
    works = []
    for name in host.names(Kind.ATTENTION):
        kernel = kernel_of(host, name)
        if isinstance(kernel, FirstOf):
            continue
        check, on = f"attention {name}", f"{device}, {heads.dtype}"
        refused = tried(kernel, [heads], device)
        if not isinstance(refused, str):
            works.append(name)
            yield Finding(check, "ok", f"works on {on}")
        elif not isinstance(kernel, str) and kernel.devices and kind not in kernel.devices:
            yield Finding(check, "ok", refused)
        else:
            yield Finding(
                check, "warning", f"does not work on {on}: {refused}", "leave attention=auto, or take another"
            )
    if not works:
        says = f"no kernel works on {device}: adapters that take one cannot be loaded"
        yield Finding("attention", "problem", says, "reinstall torch")


def _device(index: int) -> Finding:
    found = torch.cuda.get_device_properties(index)
    free, total = torch.cuda.mem_get_info(index)
    says = (
        f"{found.name}, {free / GIB:.1f} of {total / GIB:.1f} GiB free, compute capability {found.major}.{found.minor}"
    )
    if free < (1 - BUSY) * total:
        return Finding(f"device cuda:{index}", "warning", says, "others use it: see nvidia-smi")
    return Finding(f"device cuda:{index}", "ok", says)


def _driver() -> str:
    """The version of the NVIDIA driver; empty if there is none."""
    try:
        words = DRIVER.read_text().partition("\n")[0].split()
    except OSError:
        return ""
    return next((word for word in words if word[0].isdigit()), "of unknown version")
