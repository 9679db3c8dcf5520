"""Conformance suites for plugin authors: does a provider keep its contract? See docs/conformance.md.

A suite is a class of tests, one for each kind of provider. Subclass it in a test module, name the provider, and run
pytest:

    from srum_plugins.testing.adapters import AdapterConformance

    class TestMyModel(AdapterConformance):
        name = "mymodel"

:mod:`srum_plugins.testing.strategies` are hypothesis strategies for tests of your own. Needs the extra ``testing``.
"""
