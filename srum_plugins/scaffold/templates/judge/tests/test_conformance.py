"""Does the judge keep its contract?"""

from srum_plugins.testing.judges import JudgeConformance


class TestExampleName(JudgeConformance):
    """Every test of the suite, with default options; set ``options`` to test others."""

    name = "example-name"
