"""docs/scaling.md: its scripts are scripts, and its table is what the cost model prints."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCS = (ROOT / "docs" / "scaling.md").read_text()


def test_the_shell_in_the_docs_is_valid() -> None:
    blocks = re.findall(r"^```(?:sh|bash)\n(.*?)^```$", DOCS, re.MULTILINE | re.DOTALL)
    assert any(block.startswith("#!/bin/bash\n#SBATCH") for block in blocks)
    for block in blocks:
        subprocess.run(["bash", "-n"], input=block, text=True, check=True)


@pytest.mark.slow
def test_the_table_of_the_docs_is_what_the_program_prints() -> None:
    printed = subprocess.run(
        [sys.executable, "benchmarks/cost.py", "--markdown"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    table = "\n".join(line for line in printed.splitlines() if line.startswith("|"))
    assert table.count("\n") > 10 and table in DOCS
