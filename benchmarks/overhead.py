"""Where the time of a run goes: python benchmarks/overhead.py [CONFIG] [KEY=VALUE ...]

Does `srum run` in this process, in a run directory of its own, and splits its time by the clock, from the start of the
process on, imports included: what the providers, backward and the optimizer take is model time, all else is overhead.
Imports of the libraries that the model is made of are told apart from all others: any program with this model has them.
Functions are wrapped from here. Where one wrapped function calls another, the time counts for the inner one alone.

Prints a table and writes a JSON file: seconds of each kind.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import json
import os
import platform
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

CONFIG = Path(__file__).parent.parent / "configs" / "demo.yaml"
MODEL = "model"
LIBRARIES = "the model's libraries"
START, RECORDS, PNG, HASHES, DISK = "imports and start-up", "records", "PNG", "hashes", "files, fsync, rename"
TRACKING, PROGRESS, PICTURES, REWARDS, PROMPTS = "tracking", "progress", "pictures", "rewards", "prompts"
STATISTICS, CHECKPOINTS, OTHER = "statistics", "checkpoints", "other"

ADAPTER = "generate answer choice_logprobs locate locate_all token_grid encode draw predict start_training save"
PROVIDERS = {
    "adapter": {MODEL: f"{ADAPTER} load_trained", HASHES: "understanding_digest"},
    "grounder": {MODEL: "ground"},
    "judge": {MODEL: "judge"},
    "aggregator": {REWARDS: "aggregate"},
    "objective": {MODEL: "loss", REWARDS: "examples"},
    "benchmark": {MODEL: "score understanding", PROMPTS: "prompts"},
    "prompts": {PROMPTS: "prompts"},
}
"""Methods of the providers by slot and kind."""
MODEL_LIBRARIES = ("torch", "transformers", "diffusers")
"""What they import counts for them."""


class Ledger:
    """Seconds by kind. At every moment one kind is charged, the innermost."""

    def __init__(self, spent: float) -> None:
        """``spent`` seconds have gone before."""
        self.seconds = {START: spent}
        self.open = [OTHER]
        self.since = time.perf_counter()

    def charge(self) -> None:
        now = time.perf_counter()
        self.seconds[self.open[-1]] = self.seconds.get(self.open[-1], 0.0) + now - self.since
        self.since = now

    def wrap(self, kind: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The same function, whose time is charged to a kind. Threads beside the run's are not: its clock goes on."""

        @functools.wraps(function)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            if threading.current_thread() is not threading.main_thread():
                return function(*args, **kwargs)
            self.charge()
            self.open.append(kind)
            try:
                return function(*args, **kwargs)
            finally:
                self.charge()
                self.open.pop()

        return wrapped

    def methods(self, kind: str, owner: Any, names: str) -> None:
        """Wrap these attributes of a class, a module or an object."""
        for name in names.split():
            setattr(owner, name, self.wrap(kind, getattr(owner, name)))

    def functions(self, kind: str, module: Any, names: str) -> None:
        """Wrap these functions of a module, also where others of the project have imported them."""
        for name in names.split():
            function = getattr(module, name)
            wrapped = self.wrap(kind, function)
            for other in [one for key, one in sys.modules.items() if key.startswith("srum_")]:
                for known in [key for key, value in vars(other).items() if value is function]:
                    setattr(other, known, wrapped)


def age() -> float:
    """Seconds since this process began, as Linux counts them: to a hundredth."""
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")


def charge_imports(ledger: Ledger) -> None:
    """Charge all imports of what is not there yet."""
    # Private: nothing else in Python sees an import begin and end.
    find = importlib._bootstrap._find_and_load  # type: ignore[attr-defined]
    by_kind = {kind: ledger.wrap(kind, find) for kind in (LIBRARIES, START)}

    def charged(name: str, load: Callable[..., Any]) -> Any:
        within = ledger.open[-1] == LIBRARIES or name.partition(".")[0] in MODEL_LIBRARIES
        return by_kind[LIBRARIES if within else START](name, load)

    importlib._bootstrap._find_and_load = charged  # type: ignore[attr-defined]


def watch(ledger: Ledger) -> None:
    """Wrap what a run calls. What is imported here is imported by a run too, and its time is counted."""
    charge_imports(ledger)

    import hashlib

    import torch
    from PIL import Image, ImageFile

    from srum_plugins import config, host, pictures, progress
    from srum_plugins.attention import probe
    from srum_plugins.runs import files, fingerprint, shards
    from srum_plugins.stages import evaluate, session
    from srum_plugins.tracking import plugin as tracking
    from srum_plugins.training import checkpoints, state

    ledger.functions(START, config, "load")
    ledger.methods(START, host.PluginHost, "load")
    ledger.functions(START, probe, "choose")
    ledger.methods(RECORDS, shards.Shards, "read write")
    ledger.functions(RECORDS, files, "read_json write_json read_sealed write_sealed")
    ledger.methods(PNG, Image, "open")
    ledger.methods(PNG, Image.Image, "save")
    ledger.methods(PNG, ImageFile.ImageFile, "load")
    ledger.methods(HASHES, hashlib, "sha256 file_digest")
    ledger.functions(HASHES, fingerprint, "fingerprint stable_seed")
    ledger.functions(HASHES, session, "_ingredient")
    ledger.methods(DISK, os, "fsync replace rename")
    ledger.functions(DISK, files, "write_files write_folder")
    ledger.methods(DISK, shards.Shards, "image tensor")
    ledger.functions(PICTURES, pictures, "sample_grid reward_sheet before_after training_curve")
    ledger.functions(STATISTICS, evaluate, "summarise")
    ledger.functions(CHECKPOINTS, checkpoints, "save resume")
    for listener, kind in ((tracking, TRACKING), (progress, PROGRESS)):
        ledger.methods(kind, listener, " ".join(name for name in vars(listener) if name.startswith("srum_")))
    ledger.methods(MODEL, torch.Tensor, "backward")
    ledger.methods(MODEL, torch.nn.utils, "clip_grad_norm_")
    ledger.methods(MODEL, state.TrainingState, "start zero_grad take_gradients step take_average")

    make_provider = session.Session._build

    def provider(self: session.Session, kind: Any, *args: Any) -> Any:
        made = make_provider(self, kind, *args)
        for what, names in PROVIDERS.get(kind.value, {}).items():
            ledger.methods(what, made, names)
        return made

    session.Session._build = ledger.wrap(MODEL, provider)  # type: ignore[method-assign]


def main() -> None:
    ledger = Ledger(age())
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", nargs="?", type=Path, default=CONFIG)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--output", type=Path, default=Path("runs/overhead.json"), help="JSON file")
    options = parser.parse_args()
    watch(ledger)
    from srum_plugins.cli import main as srum

    with tempfile.TemporaryDirectory() as folder:
        status = srum(["run", str(options.config), f"run.directory={folder}/run", *options.overrides])
        ledger.charge()
        kinds = dict(sorted(ledger.seconds.items(), key=lambda one: -one[1]))
    if status:
        sys.exit(status)
    import torch
    from measure import name_of

    total = sum(kinds.values())
    overhead = 1 - kinds[MODEL] / total
    own = overhead - kinds[LIBRARIES] / total
    report = {
        "device": name_of(torch.device("cpu")),
        "threads": torch.get_num_threads(),
        "load_average": os.getloadavg(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "config": options.config.name,
        "overrides": options.overrides,
        "seconds": total,
        "overhead": overhead,
        "overhead_without_libraries": own,
        "kinds": kinds,
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(f"{json.dumps(report, indent=1)}\n")
    for kind, seconds in kinds.items():
        print(f"{kind:<22} {seconds:>8.2f} s {seconds / total:>7.2%}")
    print(f"{'total':<22} {total:>8.2f} s, of it {overhead:.2%} overhead, {own:.2%} without {LIBRARIES}")


if __name__ == "__main__":
    main()
