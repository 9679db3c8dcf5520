"""Does the aggregator keep its contract?"""

from srum_plugins.testing.aggregators import AggregatorConformance


class TestExampleName(AggregatorConformance):
    """Every test of the suite, with default options; set ``options`` to test others."""

    name = "example-name"
