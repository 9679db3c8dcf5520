import functools
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from fakes import GROUNDER, HEAD, Site, make_site

from srum_plugins import hookimpl
from srum_plugins.contracts import Capability
from srum_plugins.errors import PluginError
from srum_plugins.hookspecs import Events, Providers, hookspec
from srum_plugins.host import KIND_OF_HOOK, PluginHost
from srum_plugins.providers import Kind, Provider


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    yield from make_site(tmp_path, monkeypatch)


def install_good(site: Site) -> None:
    site.install("good-srum", {"good": "goodsrum.plugin"}, {"goodsrum/__init__.py": "", "goodsrum/plugin.py": GROUNDER})


def test_a_good_plugin_is_ready(site: Site) -> None:
    install_good(site)
    host = PluginHost.load(entry_points=site.entry_points())
    file = str(site.folder / "goodsrum/plugin.py")
    line = GROUNDER[: GROUNDER.index("@hookimpl")].count("\n") + 1
    assert host.rows() == [
        {
            "kind": "grounder",
            "name": "acme",
            "distribution": "good-srum",
            "version": "1.0",
            "file": f"{file}:{line}",
            "status": "ready",
            "cause": "",
            "warning": "",
        }
    ]
    registered = host.get(Kind.GROUNDER, "acme")
    assert (registered.plugin, registered.distribution, registered.version) == ("good", "good-srum", "1.0")
    assert registered.provider.factory is dict
    assert host.names(Kind.GROUNDER) == ["acme"]
    assert host.names(Kind.JUDGE) == []


def test_installed_plugins_are_discovered(site: Site) -> None:
    install_good(site)
    assert PluginHost.load().get(Kind.GROUNDER, "acme").distribution == "good-srum"


def test_our_own_plugins_load() -> None:
    rows = [row for row in PluginHost.load().rows() if row["distribution"] == "srum-plugins"]
    assert {row["kind"] for row in rows} == {*Kind, "listener"}
    assert [row for row in rows if row["status"] == "failed"] == []


def test_every_provider_hook_has_its_kind() -> None:
    assert set(KIND_OF_HOOK) == {name for name in vars(Providers) if name.startswith("srum_")}
    assert sorted(KIND_OF_HOOK.values()) == sorted(Kind)


BROKEN = {
    "missing import": ("import nowhere_to_be_found\n", "ModuleNotFoundError: No module named 'nowhere_to_be_found'"),
    "error at import": ("1 / 0\n", "ZeroDivisionError"),
    "exit at import": ("raise SystemExit(3)\n", "SystemExit: 3"),
    "no Exception": ("class Skipped(BaseException): ...\nraise Skipped('no GPU')\n", "Skipped: no GPU"),
    "no words": ("raise OSError\n", "OSError"),
    "syntax error": ("def f(:\n", "SyntaxError"),
    "unknown hook": (HEAD + "@hookimpl\ndef srum_grounder():\n    return []\n", "Did you mean 'srum_grounders'"),
    "argument names": (
        HEAD + "@hookimpl\ndef srum_metrics(run, figures): ...\n",
        "srum_metrics has no argument 'figures'",
    ),
    "argument with a default": (
        HEAD + "@hookimpl\ndef srum_metrics(run, metrics=None): ...\n",
        "the argument 'metrics' of srum_metrics has a default",
    ),
    "no marker": (HEAD + "def srum_grounders():\n    return []\n", "lacks the decorator @srum_plugins.hookimpl"),
    "no hook": ("x = 1\n", "implements no hook"),
    "hook raises": (
        HEAD + "@hookimpl\ndef srum_judges():\n    return [][0]\n",
        "py:4: srum_judges raised IndexError",
    ),
    "generator raises": (HEAD + "@hookimpl\ndef srum_judges():\n    yield [][0]\n", "srum_judges raised IndexError: "),
    "hook exits": (
        HEAD + "@hookimpl\ndef srum_judges():\n    raise SystemExit(3)\n",
        "raised SystemExit: 3",
    ),
    "a bare record": (
        HEAD + "@hookimpl\ndef srum_judges():\n    return Provider('a', 'A.', dict)\n",
        "it returned the provider 'a' itself: put it in a list",
    ),
    "no providers": (HEAD + "@hookimpl\ndef srum_judges():\n    return []\n", "srum_judges gives no provider"),
    "no list": (HEAD + "@hookimpl\ndef srum_judges(): ...\n", "must return a list of Provider records"),
    "wrapper": (HEAD + "@hookimpl(wrapper=True)\ndef srum_judges():\n    return (yield)\n", "cannot be a wrapper"),
    "no record": (
        HEAD + "@hookimpl\ndef srum_judges():\n    return ['acme']\n",
        "must give Provider records, got 'acme'",
    ),
    "same name twice": (
        HEAD + "@hookimpl\ndef srum_judges():\n    return [Provider('a', 'A.', dict), Provider('a', 'A.', dict)]\n",
        "two providers named 'a'",
    ),
}
RECORDS = {
    "name": ("Provider('Acme Judge', 'A.', dict)", "a name is a small letter"),
    "name type": ("Provider(3, 'A.', dict)", "a name is a small letter"),
    "summary": ("Provider('a', '', dict)", "summary must be one line"),
    "factory": ("Provider('a', 'A.', 3)", "factory must be callable"),
    "factory's arguments": (
        "Provider('a', 'A.', lambda: None)",
        "called as factory(options), and takes (): too many positional arguments",
    ),
    "needs": ("Provider('a', 'A.', dict, needs=frozenset())", "needs must be callable"),
    "check": ("Provider('a', 'A.', dict, check=True)", "check must be callable"),
    "identity": ("Provider('a', 'A.', dict, identity='sha')", "identity must be callable"),
    "squared": ("Provider('a', 'A.', dict, squared='no')", "squared must be true or false"),
    "needs_squared": ("Provider('a', 'A.', dict, needs_squared='no')", "needs_squared must be callable"),
    "options": ("Provider('a', 'A.', dict, options=dict)", "options must be a dataclass"),
    "options instance": ("Provider('a', 'A.', dict, options=NoOptions())", "options must be a dataclass"),
    "options type": ("Provider('a', 'A.', dict, options=Bad)", "Bad cannot be filled from a config file"),
    "capabilities": ("Provider('a', 'A.', dict, capabilities=frozenset({'train'}))", "a frozenset of Capability"),
    "not an adapter": ("Provider('a', 'A.', dict, capabilities=frozenset({Capability.TRAIN}))", "only adapters"),
    "not an adapter's presets": ("Provider('a', 'A.', dict, presets={'b': {}})", "only adapters"),
    "presets' type": ("Provider('a', 'A.', dict, presets=['b'])", "presets must be a mapping, got ['b']"),
    "parts' type": ("Provider('a', 'A.', dict, parts=['judge'])", "parts must be a mapping, got ['judge']"),
    "presets": ("Provider('a', 'A.', dict, presets={'b': {'nois': 1}})", "preset 'b'.nois: there is no such setting"),
    "presets' name": ("Provider('a', 'A.', dict, sampling=Preset)", "'preset' names a preset"),
    "modules": ("Provider('a', 'A.', dict, modules='torch', extra='pip install torch')", "tuple of import names"),
    "extra": ("Provider('a', 'A.', dict, modules=('torch',))", "modules need extra"),
}
BAD = """
import dataclasses
from srum_plugins.contracts import Capability
from srum_plugins.providers import NoOptions
@dataclasses.dataclass
class Bad:
    lock: memoryview
@dataclasses.dataclass
class Preset:
    preset: str = ""
"""


@pytest.mark.parametrize(
    ("code", "cause"),
    [
        *BROKEN.values(),
        *((HEAD + BAD + f"@hookimpl\ndef srum_judges():\n    return [{r}]\n", c) for r, c in RECORDS.values()),
    ],
    ids=[*BROKEN, *RECORDS],
)
def test_a_broken_plugin_is_listed_and_leaves_the_others_alone(
    site: Site, monkeypatch: pytest.MonkeyPatch, code: str, cause: str
) -> None:
    install_good(site)
    site.install("bad-srum", {"bad": "badsrum"}, {"badsrum.py": code}, version="0.3")
    host = PluginHost.load(entry_points=site.entry_points())
    good, bad = host.rows()
    assert good["status"] == "ready"
    assert (bad["kind"], bad["name"], bad["status"]) == ("plugin", "bad", "failed")
    assert (bad["distribution"], bad["version"]) == ("bad-srum", "0.3")
    assert cause in bad["cause"]
    assert "\n" not in bad["cause"]
    assert bad["file"].startswith(str(site.folder / "badsrum.py"))
    # nothing of it stays registered
    assert all(impl.plugin_name == "good" for name in KIND_OF_HOOK for impl in getattr(host.hook, name).get_hookimpls())
    with pytest.raises(PluginError, match=r"'bad' of bad-srum 0\.3, failed: ") as refused:
        host.get(Kind.JUDGE, "bad")
    assert cause in str(refused.value)

    monkeypatch.setenv("SRUM_PLUGINS_STRICT", "1")
    with pytest.raises(PluginError, match=r"'bad' of bad-srum 0\.3 failed to load") as stopped:
        PluginHost.load(entry_points=site.entry_points())
    assert cause in str(stopped.value)


@pytest.mark.parametrize(
    "code",
    ["x = 1\nimport nowhere\n", "x = 1\ndef f(:\n", "@__import__('srum_plugins').hookimpl\ndef srum_judges(): 1 / 0\n"],
)
def test_the_line_of_a_failed_import_is_listed(site: Site, code: str) -> None:
    site.install("bad-srum", {"bad": "badsrum.plugin"}, {"badsrum/__init__.py": "", "badsrum/plugin.py": code})
    (row,) = PluginHost.load(entry_points=site.entry_points()).rows()
    assert row["file"] == f"{site.folder / 'badsrum/plugin.py'}:2"


@pytest.mark.parametrize("target", ["nowhere.plugin", "not an import name", "json:nothing"])
def test_an_entry_point_that_leads_nowhere_is_listed(site: Site, target: str) -> None:
    site.install("bad-srum", {"bad": target}, {})
    (row,) = PluginHost.load(entry_points=site.entry_points()).rows()
    assert (row["name"], row["status"]) == ("bad", "failed")


def test_a_module_of_two_entry_points_is_loaded_once(site: Site) -> None:
    site.install("one-srum", {"acme": "onesrum", "zoo": "onesrum"}, {"onesrum.py": GROUNDER})
    grounder, zoo = PluginHost.load(entry_points=site.entry_points()).rows()
    assert (grounder["name"], grounder["status"]) == ("acme", "ready")
    assert (zoo["name"], zoo["status"]) == ("zoo", "failed")
    assert zoo["cause"] == "it is the plugin 'acme' too, which is loaded: one entry point is enough"


def test_two_plugins_of_one_name_are_both_refused_before_import(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    install_good(site)
    site.install("one-srum", {"acme": "onesrum"}, {"onesrum.py": GROUNDER})
    site.install("two-srum", {"acme": "twosrum"}, {"twosrum.py": GROUNDER}, version="2.0")
    host = PluginHost.load(blocked=["good"], entry_points=site.entry_points())
    failed = [row for row in host.rows() if row["status"] == "failed"]
    assert [row["distribution"] for row in failed] == ["one-srum", "two-srum"]
    assert {"onesrum", "twosrum"}.isdisjoint(sys.modules)
    for row in failed:
        assert "one-srum 1.0 and two-srum 2.0" in row["cause"]
    with pytest.raises(PluginError, match=r"one-srum 1\.0 and two-srum 2\.0"):
        host.get(Kind.GROUNDER, "acme")

    monkeypatch.setenv("SRUM_PLUGINS_BLOCK", "two-srum,good-srum")  # the way out that the message names
    assert PluginHost.load(entry_points=site.entry_points()).get(Kind.GROUNDER, "acme").distribution == "one-srum"


def test_a_distribution_that_takes_a_name_twice_is_told_so(site: Site) -> None:
    """Nothing of it can be uninstalled alone."""
    two = "[srum_plugins]\nacme = onesrum\nacme = twosrum\n"
    files = {"onesrum.py": GROUNDER, "twosrum.py": GROUNDER, "one_srum-1.0.dist-info/entry_points.txt": two}
    site.install("one-srum", {}, files)
    first, second = PluginHost.load(entry_points=site.entry_points()).rows()
    assert first["cause"] == second["cause"]
    assert first["cause"] == (
        "one-srum 1.0 has several plugins named 'acme', onesrum and twosrum; none is loaded: "
        "its authors must rename one"
    )

    site.install("one-srum", {"one": "onesrum", "two": "twosrum"}, {})
    row, _ = PluginHost.load(entry_points=site.entry_points()).rows()
    assert row["cause"].startswith("the grounder 'acme' is provided by one-srum 1.0 (plugin 'one') and one-srum 1.0 (")
    assert "; block one by its plugin's name in SRUM_PLUGINS_BLOCK" in row["cause"]


def test_two_providers_of_one_name_are_both_refused(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    other = HEAD + "@hookimpl\ndef srum_judges():\n    return [Provider('fine', 'Fine.', dict)]\n"
    site.install("one-srum", {"one": "onesrum"}, {"onesrum.py": GROUNDER})
    site.install("two-srum", {"two": "twosrum"}, {"twosrum.py": GROUNDER + other})
    host = PluginHost.load(entry_points=site.entry_points())
    assert [(row["kind"], row["name"], row["distribution"], row["status"]) for row in host.rows()] == [
        ("grounder", "acme", "one-srum", "failed"),
        ("grounder", "acme", "two-srum", "failed"),
        ("judge", "fine", "two-srum", "ready"),
    ]
    assert host.names(Kind.GROUNDER) == []
    with pytest.raises(PluginError, match=r"one-srum 1\.0 .* and two-srum 1\.0"):
        host.get(Kind.GROUNDER, "acme")
    assert host.get(Kind.JUDGE, "fine").distribution == "two-srum"
    monkeypatch.setenv("SRUM_PLUGINS_STRICT", "1")
    with pytest.raises(PluginError, match=r"one-srum 1\.0 .* and two-srum 1\.0"):
        PluginHost.load(entry_points=site.entry_points())


@pytest.mark.parametrize("name", ["shy", "shy-srum", "Shy_SRUM"])
@pytest.mark.parametrize("by_env", [True, False])
def test_a_blocked_plugin_is_not_imported(site: Site, monkeypatch: pytest.MonkeyPatch, name: str, by_env: bool) -> None:
    mark = site.folder / "imported"
    code = f"import pathlib\npathlib.Path({str(mark)!r}).touch()\n" + GROUNDER
    site.install("shy-srum", {"shy": "shysrum.plugin"}, {"shysrum/__init__.py": code, "shysrum/plugin.py": code})
    if by_env:
        monkeypatch.setenv("SRUM_PLUGINS_BLOCK", f"other, {name}")
    host = PluginHost.load(blocked=[] if by_env else [name], entry_points=site.entry_points())
    assert not mark.exists()
    (row,) = host.rows()
    assert (row["kind"], row["name"], row["status"]) == ("plugin", "shy", "blocked")
    assert row["cause"] == ("blocked by SRUM_PLUGINS_BLOCK" if by_env else "blocked by the caller")
    with pytest.raises(PluginError, match=r"'shy' of shy-srum 1\.0, blocked"):
        host.get(Kind.GROUNDER, "acme")


def test_names_that_block_nothing_are_told_with_the_nearest(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    install_good(site)
    monkeypatch.setenv("SRUM_PLUGINS_BLOCK", "goood,, good")
    host = PluginHost.load(["good-srom", "Good_SRUM"], site.entry_points(), blocked_by="mine")
    assert host.blocked == {"goood", "good", "good-srom", "Good_SRUM"}
    env, own = host.blocked_in_vain
    assert env.startswith("SRUM_PLUGINS_BLOCK: nothing that is installed is called 'goood'")
    assert "Did you mean 'good'" in env
    assert own.startswith("mine: ")
    assert "Did you mean 'good-srum'" in own


def test_a_plugin_is_blocked_by_its_very_name_and_what_blocks_nothing_is_told(site: Site) -> None:
    site.install("acme", {"good_one": "goodsrum"}, {"goodsrum.py": GROUNDER})
    host = PluginHost.load(["good-one"], site.entry_points(), blocked_by="mine")
    assert [row["status"] for row in host.rows()] == ["ready"]
    (told,) = host.blocked_in_vain
    assert "'good-one'" in told and "Did you mean 'good_one'" in told


def test_a_factory_is_judged_by_the_arguments_that_it_takes_itself() -> None:
    """And not by those of what it wraps."""

    def plain(options: object) -> object:
        return options

    @functools.wraps(plain)
    def wrapped(options: object, device: str) -> object:
        return plain(options)

    host = PluginHost.load(entry_points=())
    can = frozenset({Capability.ANSWER})
    host.register(Makes(Provider("toy", "A toy.", wrapped, capabilities=can)), "toys")
    assert host.names(Kind.ADAPTER) == ["toy"]


def test_an_interrupt_is_no_failure_of_a_plugin(site: Site) -> None:
    site.install("slow-srum", {"slow": "slowsrum"}, {"slowsrum.py": "raise KeyboardInterrupt\n"})
    with pytest.raises(KeyboardInterrupt):
        PluginHost.load(entry_points=site.entry_points())


def test_a_missing_extra_is_told_with_its_pip_line_and_without_import(site: Site) -> None:
    record = "Provider('sam', 'Sam.', dict, modules=({0}), extra=\"pip install 'srum[sam]'\")"
    modules = "'shysrum.deep', 'shysrum.absent', 'nowhere.deep'"
    code = HEAD + f"@hookimpl\ndef srum_grounders():\n    return [{record.format(modules)}]\n"
    broken = "raise AssertionError('must not be imported')\n"
    files = {"samsrum.py": code, "shysrum/__init__.py": broken, "shysrum/deep.py": broken}
    site.install("sam-srum", {"sam": "samsrum"}, files)
    host = PluginHost.load(entry_points=site.entry_points())
    (row,) = host.rows()
    assert (row["kind"], row["name"], row["status"]) == ("grounder", "sam", "missing-extra")
    assert row["cause"] == "needs shysrum.absent, nowhere.deep, not installed: pip install 'srum[sam]'"
    assert host.names(Kind.GROUNDER) == []
    with pytest.raises(PluginError, match=r"pip install 'srum\[sam\]'"):
        host.get(Kind.GROUNDER, "sam")


def test_an_unknown_provider_is_answered_with_the_nearest_name(site: Site) -> None:
    install_good(site)
    host = PluginHost.load(entry_points=site.entry_points())
    with pytest.raises(PluginError, match=r"there is no grounder named 'acne'\. Did you mean 'acme'"):
        host.get(Kind.GROUNDER, "acne")
    with pytest.raises(PluginError, match=r"there is no judge named 'acme'\. Known: \(none\)"):
        host.get(Kind.JUDGE, "acme")


class Listener:
    def __init__(self) -> None:
        self.heard: list[int] = []

    @hookimpl
    def srum_train_step_started(self, step: int) -> None:  # fewer arguments than the specification
        self.heard.append(step)


def test_listeners_of_this_process_hear_events_and_are_listed() -> None:
    host, listener = PluginHost(), Listener()
    host.register(listener, "ear")
    host.hook.srum_train_step_started(run=None, step=7)
    assert listener.heard == [7]
    (row,) = host.rows()
    assert (row["kind"], row["name"], row["status"], row["distribution"]) == (
        "listener",
        "ear",
        "ready",
        "(in process)",
    )


class Makes:
    def __init__(self, *providers: Provider) -> None:
        self.providers = providers

    @hookimpl
    def srum_model_adapters(self) -> list[Provider]:
        return list(self.providers)


def test_register_adds_providers_and_refuses_taken_names() -> None:
    host = PluginHost()
    can = frozenset({Capability.TRAIN})
    host.register(Makes(Provider("toy", "A toy.", dict, capabilities=can)), "toys")
    assert host.get(Kind.ADAPTER, "toy").provider.capabilities == can
    for plugin, name in [(Makes(), "toys"), (Makes(Provider("toy", "Another.", dict)), "more")]:
        before = host.rows()
        with pytest.raises(PluginError, match="toy"):
            host.register(plugin, name)
        assert host.rows() == before
        assert len(host.hook.srum_model_adapters()) == 1


@pytest.mark.parametrize(
    ("plugin", "cause"),
    [
        (Makes, "is a class"),
        (SimpleNamespace(), "implements no hook"),
        (Makes(Provider("Bad Name", "A.", dict)), "a name is"),
    ],
)
def test_register_holds_the_same_rules(plugin: object, cause: str) -> None:
    host = PluginHost()
    with pytest.raises(PluginError, match=cause):
        host.register(plugin, "mine")
    assert host.rows() == []


def old_judges(self: object) -> None: ...


def old_metrics(self: object, run: object, stage: str, metrics: object) -> None: ...


def test_what_is_deprecated_works_and_is_told_with_place_and_replacement(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mechanism of docs/deprecation.md, on specifications that are marked for this test only."""
    hook = hookspec(warn_on_impl=DeprecationWarning("since 0.2, removed in 0.4: use srum_grounders"))
    argument = hookspec(warn_on_impl_args={"stage": DeprecationWarning("since 0.2, removed in 0.4: use run")})
    monkeypatch.setattr(Providers, "srum_judges", hook(old_judges))
    monkeypatch.setattr(Events, "srum_metrics", argument(old_metrics))
    judges = "@hookimpl\ndef srum_judges():\n    return [Provider('old', 'An old one.', dict)]\n"
    metrics = "@hookimpl\ndef srum_metrics(stage): ...\n"
    site.install("old-srum", {"old": "oldsrum"}, {"oldsrum.py": GROUNDER + judges + metrics})
    install_good(site)

    with pytest.warns(DeprecationWarning) as told:  # which is what the author's own tests show
        host = PluginHost.load(entry_points=site.entry_points())
    assert {Path(one.filename).name for one in told} == {"oldsrum.py"}
    rows = {(row["kind"], row["name"], row["distribution"]): row for row in host.rows()}
    judge, listener = rows["judge", "old", "old-srum"], rows["listener", "old", "old-srum"]
    assert judge["status"] == listener["status"] == "ready"
    place = str(site.folder / "oldsrum.py")
    since = "since 0.2, removed in 0.4"
    assert judge["warning"] == f"{judge['file']}: srum_judges is deprecated: {since}: use srum_grounders"
    assert listener["warning"] == (
        f"{listener['file']}: the argument 'stage' of srum_metrics is deprecated: {since}: use run"
    )
    assert judge["file"].startswith(place)
    others = [row for row in host.rows() if row not in (judge, listener)]
    assert others
    assert {row["warning"] for row in others} == {""}
    assert host.get(Kind.JUDGE, "old").provider.name == "old"
