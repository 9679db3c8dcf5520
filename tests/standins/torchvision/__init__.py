"""The few functions of torchvision that SAM calls, in plain torch and PIL, for tests where torchvision is missing or
its operators do not load. No part of the plugin: put the folder above on the path before torchvision is imported."""

__version__ = "0.0.0"  # transformers asks
