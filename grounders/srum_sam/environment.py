"""What the grounder needs of this machine, looked at before any weight is loaded."""

from __future__ import annotations

from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from srum_plugins.errors import ConfigError
from srum_sam.options import SamOptions

MODULES = ("segment_anything", "torchvision")
EXTRA = "pip install 'srum-plugins[sam]'"


def check(options: SamOptions) -> None:
    """Refuse options that cannot work here.

    Raises:
        ConfigError: the checkpoint or the device is not there, or packages are missing or broken.
    """
    import torch  # here, because it takes a second

    if not options.file.is_file():
        raise ConfigError(f"there is no file {options.file} (grounder.checkpoint)")
    try:
        device = torch.device(options.device)
    except RuntimeError as error:
        raise ConfigError(f"grounder.device: {options.device!r} is not a device, such as cpu or cuda:1") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"grounder.device is {options.device}, but torch finds no CUDA device here")
    check_packages()


def check_packages() -> None:
    """Refuse missing packages, and a torchvision whose operators do not load beside this torch.

    They are loaded alone. Importing such a torchvision fails halfway, with a message about something else.

    Raises:
        ConfigError: what is missing, or why the operators do not load, and what to do.
    """
    import torch

    if missing := [name for name in MODULES if find_spec(name) is None]:
        raise ConfigError(f"{', '.join(missing)} not installed: {EXTRA}")
    spec = find_spec("torchvision")
    folder = Path(spec.origin).parent if spec and spec.origin else Path()
    for file in folder.glob("_C*.so"):
        try:
            torch.ops.load_library(file)  # type: ignore[no-untyped-call]
        except OSError as error:
            reason = str(error.__cause__ or error).splitlines()[0]
            raise ConfigError(
                f"torchvision {version('torchvision')} is installed, but its operators do not load beside torch "
                f"{torch.__version__}: {reason}. Both must be of one build, for the CPU or for the same CUDA; until "
                f"then transformers fails as well. Remove it (pip uninstall torchvision), then install it from the "
                f"index that torch came from: {EXTRA}"
            ) from error
