"""Does the model keep the whole contract?"""

from srum_plugins.testing.adapters import AdapterConformance


class TestExampleName(AdapterConformance):
    """Every test of the suite, with default options; set ``options`` to test others."""

    name = "example-name"
    trained = True  # the toy's velocity is right from the start; leave this out while the weights of yours are random
