"""Does the benchmark keep its contract?"""

from srum_plugins.testing.benchmarks import BenchmarkConformance


class TestExampleName(BenchmarkConformance):
    """Every test of the suite, with default options; set ``options`` to test others."""

    name = "example-name"
