from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint

import pytest

from hardpoint.config import PluginConfig
from hardpoint.contract.errors import ConfigError, PluginError
from hardpoint.contract.version import CONTRACT
from hardpoint.plugins import Catalogue, Record, State
from throwaway import Site, descriptor

Install = Callable[..., str]


def catalogue(site: Site, *allow: str, prefer: dict[str, str] | None = None) -> Catalogue:
    return Catalogue(allow or ("vendor-x",), prefer, entry_points=site.points())


def only(found: Catalogue) -> Record:
    (record,) = found.records
    return record


def imported(prefix: str = "throwaway_") -> set[str]:
    return {name for name in sys.modules if name.startswith(prefix)}


def test_a_good_plugin_goes_from_available_to_loaded_to_an_object(site: Site, policy: Install) -> None:
    policy()
    before = imported()
    found = catalogue(site)
    assert only(found).state is State.AVAILABLE
    assert only(found).origin == "vendor-x 1.0"
    assert found.names("schedulers") == ("tidy",)
    assert imported() == before, "making a catalogue imported a plugin"

    descriptor = found.load("schedulers", "tidy")
    assert descriptor.name == "tidy"
    assert only(found).state is State.LOADED
    assert only(found).load_ms is not None
    assert len(imported() - before) == 1, "loading a descriptor imported the implementation"

    made = found.create("schedulers", "tidy")
    assert made.name == "tidy"
    assert found.load("schedulers", "tidy") is descriptor
    assert found.create("schedulers", "tidy") is not made


def test_a_plugin_that_nobody_allowed_is_blocked_and_never_imported(site: Site, policy: Install) -> None:
    policy(head="raise SystemError('imported')")
    found = catalogue(site, "someone-else")
    assert only(found).state is State.BLOCKED
    assert found.names("schedulers") == ()
    with pytest.raises(PluginError, match=r"vendor-x 1\.0 is blocked: .*--allow-plugins vendor-x allows it"):
        found.create("schedulers", "tidy")


@pytest.mark.parametrize("spelling", ["Vendor_X", "vendor.x", "*"])
def test_the_allow_list_compares_normalized_names(site: Site, policy: Install, spelling: str) -> None:
    policy()
    assert only(catalogue(site, spelling)).state is State.AVAILABLE


@pytest.mark.parametrize(
    ("head", "told"),
    [
        ("raise ImportError('libvendor.so: cannot open shared object file')", "ImportError: libvendor.so"),
        ("assert False, 'driver too old'", "AssertionError: driver too old"),
        ("import sys; sys.exit('no licence')", r"sys.exit\('no licence'\)"),
        ("this is no python", "SyntaxError"),
    ],
)
@pytest.mark.parametrize("where", ["descriptor", "implementation"])
def test_a_selected_plugin_that_cannot_be_imported_is_named_with_its_cause(
    site: Site, policy: Install, head: str, told: str, where: str
) -> None:
    policy(**({"head": head + "\n"} if where == "descriptor" else {"body": head}))
    policy("vendor-y", "other")
    found = catalogue(site, "vendor-x", "vendor-y")
    with pytest.raises(PluginError, match=rf"'tidy' of vendor-x 1\.0 .*{told}.*Others of this kind: other\."):
        found.create("schedulers", "tidy")
    assert next(r for r in found.records if r.name == "tidy").state is State.BROKEN
    assert found.create("schedulers", "other").name == "tidy", "a broken neighbour took a good plugin with it"
    with pytest.raises(PluginError, match=rf"is broken: .*{told}"):
        found.select("schedulers", "tidy")


def test_an_interrupt_during_an_import_is_an_interrupt(site: Site, policy: Install) -> None:
    policy(head="raise KeyboardInterrupt\n")
    with pytest.raises(KeyboardInterrupt):
        catalogue(site).load("schedulers", "tidy")


@pytest.mark.parametrize(
    ("contract", "way_out"), [("(1, 99)", "a newer"), ("(2, 0)", "a newer"), ("(0, 9)", "an older")]
)
def test_a_plugin_for_another_contract_is_incompatible(
    site: Site, policy: Install, contract: str, way_out: str
) -> None:
    policy(contract=contract)
    found = catalogue(site)
    built = contract.strip("()").replace(", ", ".")
    with pytest.raises(PluginError, match=rf"version {built} of the schedulers contract.*install {way_out} hardpoint"):
        found.load("schedulers", "tidy")
    assert only(found).state is State.INCOMPATIBLE


def test_a_kind_that_this_core_does_not_know_is_listed_as_incompatible(site: Site) -> None:
    site.add("vendor-x", {}, {"telepathy": {"spoon": "nowhere:D"}})
    assert only(catalogue(site)).state is State.INCOMPATIBLE
    with pytest.raises(PluginError, match="no plugins of kind 'telepathy'; kinds are platforms"):
        catalogue(site).load("telepathy", "spoon")


def test_one_name_from_two_distributions_is_refused_until_one_is_preferred(site: Site, policy: Install) -> None:
    policy("vendor-x")
    policy("vendor-y")
    found = catalogue(site, "vendor-x", "vendor-y")
    assert [r.state for r in found.records] == [State.CONFLICT, State.CONFLICT]
    with pytest.raises(PluginError, match=r"also provided by vendor-y 1\.0; choose with --prefer-plugins"):
        found.select("schedulers", "tidy")

    found = catalogue(site, "vendor-x", "vendor-y", prefer={"schedulers:tidy": "Vendor_Y"})
    assert found.select("schedulers", "tidy").distribution == "vendor-y"
    assert [r.state for r in found.records] == [State.CONFLICT, State.AVAILABLE]

    assert catalogue(site, "vendor-x").select("schedulers", "tidy").distribution == "vendor-x", "a blocked one rivals"


def test_a_preference_that_nothing_fulfils_takes_nothing_else(site: Site, policy: Install) -> None:
    policy()
    with pytest.raises(PluginError, match="prefer_plugins takes it from vendor-z, which provides no such plugin"):
        catalogue(site, prefer={"schedulers:tidy": "vendor-z"}).select("schedulers", "tidy")


@pytest.mark.parametrize("key", ["tidy", "scheduler:tidy", "schedulers:"])
def test_a_malformed_preference_is_a_configuration_error(key: str) -> None:
    with pytest.raises(ConfigError, match="must be 'kind:name'"):
        Catalogue.of(PluginConfig(prefer_plugins={key: "vendor-x"}))


def test_one_distribution_with_a_name_twice_conflicts_with_itself(site: Site) -> None:
    source = descriptor("schedulers", "tidy", "x:y")
    site.add("vendor-x", {"twice_a": source, "twice_b": source}, {"schedulers": {"tidy": "twice_a:D"}})
    text = site.path / "vendor_x-1.0.dist-info" / "entry_points.txt"
    text.write_text(text.read_text() + "tidy = twice_b:D\n")
    with pytest.raises(PluginError, match="declares it 2 times"):
        catalogue(site).select("schedulers", "tidy")


def test_an_unknown_name_is_told_with_the_nearest_and_with_what_exists(site: Site, policy: Install) -> None:
    policy(name="tidy")
    policy("vendor-y", "messy")
    with pytest.raises(PluginError, match=r"schedulers plugin 'tidi'. Did you mean 'tidy'\? Available: messy, tidy\."):
        catalogue(site, "vendor-x", "vendor-y").select("schedulers", "tidi")


def test_requirements_are_looked_for_before_the_implementation_is_imported(site: Site, policy: Install) -> None:
    policy(
        requires=("json", "no_such_module", "no_such.sub"),
        remedy="pip install vendor-x[fast]",
        body="raise SystemError",
    )
    with pytest.raises(PluginError, match=r"needs no_such_module, no_such.sub, .*pip install vendor-x\[fast\]"):
        catalogue(site).create("schedulers", "tidy")


def test_a_requirement_without_a_remedy_gets_one(site: Site, policy: Install) -> None:
    policy(requires=("no_such_module",))
    with pytest.raises(PluginError, match="pip install no_such_module"):
        catalogue(site).create("schedulers", "tidy")


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("class Policy:\n    name = 'tidy'", r"method key\(request\) is missing"),
        ("class Policy:\n    def key(self, request): ...", "attribute name is missing"),
        ("class Policy:\n    name = 'tidy'\n    def key(self): ...", r"key\(self\) cannot be called as key\(request\)"),
        ("class Policy:\n    name = 'tidy'\n    key = 3", "key is int, not a method"),
        ("def Policy():\n    return object()", r"object is no SchedulingPolicy: .*key\(request\) is missing"),
        ("Policy = 3", "int, not callable"),
        ("", "has no attribute 'Policy'"),
    ],
)
def test_an_implementation_that_lacks_a_member_is_refused_by_name(
    site: Site, policy: Install, body: str, told: str
) -> None:
    policy(body=body)
    found = catalogue(site)
    with pytest.raises(PluginError, match=rf"vendor-x 1\.0 .*{told}"):
        found.create("schedulers", "tidy")
    assert only(found).state is State.BROKEN


def test_a_failing_constructor_is_told_but_may_be_called_again(site: Site, policy: Install) -> None:
    body = """
        class Policy:
            name = "tidy"
            def __init__(self, width):
                if width < 0:
                    raise ValueError("width is negative")
            def key(self, request): ...
    """
    policy(body=body)
    found = catalogue(site)
    with pytest.raises(PluginError, match="failed when it was created: ValueError: width is negative"):
        found.create("schedulers", "tidy", -1)
    assert found.create("schedulers", "tidy", width=1).name == "tidy"


def test_what_an_implementation_refuses_on_purpose_passes_through(site: Site, policy: Install) -> None:
    policy(
        body="""
        from hardpoint.contract.errors import ConfigError
        def Policy():
            raise ConfigError("block_size is 3; it must be even")
        """
    )
    with pytest.raises(ConfigError, match="block_size is 3"):
        catalogue(site).create("schedulers", "tidy")


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("D = 3", "is int, not a hardpoint.contract.descriptor.Descriptor"),
        (descriptor("schedulers", "other", "a:b"), "describes schedulers:other, its entry point says schedulers:tidy"),
        (descriptor("schedulers", "tidy", "nothing"), "is not 'module:attribute'"),
        (descriptor("telepathy", "tidy", "a:b"), "unknown kind 'telepathy'"),
        ("", "has no attribute 'D'"),
    ],
)
def test_an_entry_point_that_is_no_proper_descriptor_is_broken(site: Site, source: str, told: str) -> None:
    module = f"wrong_{abs(hash(source))}"
    site.add("vendor-x", {module: source}, {"schedulers": {"tidy": f"{module}:D"}})
    with pytest.raises(PluginError, match=told):
        catalogue(site).load("schedulers", "tidy")


@pytest.mark.parametrize("target", ["no_such_module_at_all:D", "not a target"])
def test_an_entry_point_to_nowhere_is_broken(site: Site, target: str) -> None:
    site.add("vendor-x", {}, {"schedulers": {"tidy": target}})
    with pytest.raises(PluginError, match=r"vendor-x 1\.0"):
        catalogue(site).load("schedulers", "tidy")
    assert catalogue(site).names("schedulers") == ("tidy",)


def test_a_damaged_dist_info_is_listed_and_blocked(site: Site, policy: Install) -> None:
    policy()
    (site.path / "vendor_x-1.0.dist-info" / "METADATA").unlink()
    assert only(catalogue(site)).state is State.BLOCKED


def test_entry_points_made_by_a_caller_need_no_distribution(site: Site) -> None:
    (site.path / "handmade.py").write_text(
        descriptor("schedulers", "mine", "handmade:Mine")
        + "class Mine:\n    name = 'mine'\n    def key(self, request): return ()\n"
    )
    point = EntryPoint("mine", "handmade:D", "hardpoint.schedulers")
    assert Catalogue(entry_points=[point]).create("schedulers", "mine").name == "mine"


def test_the_installed_catalogue_finds_our_own_plugins() -> None:
    found = Catalogue()
    assert {"in_process", "multi_process"} <= set(found.names("executors"))
    assert all(r.kind in CONTRACT for r in found.records if r.distribution == "hardpoint")
    for record in found.records:
        if record.distribution == "hardpoint":
            assert found.load(record.kind, record.name).summary, f"{record.kind}:{record.name} has no summary"
