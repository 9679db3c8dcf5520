"""Does the grounder keep its contract?"""

from srum_plugins.testing.grounders import GrounderConformance


class TestExampleName(GrounderConformance):
    """Every test of the suite, with default options; set ``options`` to test others."""

    name = "example-name"
