"""The conformance suite of model adapters."""

from __future__ import annotations

from srum_plugins.testing.adapter_capabilities import CapabilityChecks
from srum_plugins.testing.adapter_generation import GenerationChecks
from srum_plugins.testing.adapter_latents import LatentChecks
from srum_plugins.testing.adapter_predictions import FlowChecks, PredictionChecks
from srum_plugins.testing.adapter_training import TrainingChecks
from srum_plugins.testing.adapter_understanding import UnderstandingChecks

__all__ = ["AdapterConformance"]


# pytest runs the tests of the last base first: what others build on comes before them.
class AdapterConformance(
    TrainingChecks,
    FlowChecks,
    PredictionChecks,
    LatentChecks,
    UnderstandingChecks,
    GenerationChecks,
    CapabilityChecks,
):
    """Does a model adapter keep its contract? Only what it declares is checked, and that it refuses the rest.

        class TestMyModel(AdapterConformance):
            name = "mymodel"
            options = {"checkpoint": "..."}
            sampling = {"steps": 2}

    :class:`srum_plugins.testing.adapter_suite.AdapterSuite` says what else can be set.
    """
