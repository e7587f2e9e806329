import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_operator.core import quantity
from llm_operator.core.children.drift import change, compare, first_difference
from tests.unit.operator.builders import a_manifest, a_spec, as_stored
from tests.unit.operator.simulated_api import patched

POD = "spec.template.spec"
DESIRED = a_manifest(a_spec(replicas=2, resources={"limits": {"memory": "1Gi"}}))


def live() -> dict[str, Any]:
    return as_stored(DESIRED)


def container(manifest: dict[str, Any]) -> Any:
    return manifest["spec"]["template"]["spec"]["containers"][0]


def test_defaults_of_the_api_server_are_no_difference() -> None:
    assert first_difference(DESIRED, live()) is None


def test_what_others_add_is_no_difference() -> None:
    stored = live()
    stored["spec"]["template"]["spec"]["volumes"].append({"name": "extra", "emptyDir": {}})
    stored["spec"]["template"]["metadata"]["annotations"]["kubectl.kubernetes.io/restartedAt"] = "now"
    assert compare(DESIRED, stored).differences == ()
    assert change(stored, compare(DESIRED, stored).put_right) == ()


def edits() -> dict[str, Any]:
    def remove_env(stored: dict[str, Any]) -> None:
        container(stored)["env"].clear()

    def set_mode(stored: dict[str, Any]) -> None:
        container(stored)["env"][0]["value"] = "qwen"

    def remove_limits(stored: dict[str, Any]) -> None:
        del container(stored)["resources"]

    def raise_limit(stored: dict[str, Any]) -> None:
        container(stored)["resources"]["limits"]["memory"] = "2Gi"

    def scale(stored: dict[str, Any]) -> None:
        stored["spec"]["replicas"] = 5

    def drop_owner(stored: dict[str, Any]) -> None:
        del stored["metadata"]["ownerReferences"]

    def drop_label(stored: dict[str, Any]) -> None:
        del stored["metadata"]["labels"]["app.kubernetes.io/managed-by"]

    def drop_revision(stored: dict[str, Any]) -> None:
        del stored["spec"]["template"]["metadata"]["annotations"]

    def shorten_soak(stored: dict[str, Any]) -> None:
        stored["spec"]["minReadySeconds"] = 0

    def add_capability(stored: dict[str, Any]) -> None:
        container(stored)["securityContext"]["capabilities"]["drop"] = ["NET_RAW"]

    def rename_container(stored: dict[str, Any]) -> None:
        container(stored)["name"] = "other"

    def add_container(stored: dict[str, Any]) -> None:
        stored["spec"]["template"]["spec"]["containers"].append({"name": "sidecar", "image": "s:1"})

    return {edit.__name__: edit for edit in list(locals().values())}


@pytest.mark.parametrize("edit", edits().values(), ids=edits())
def test_an_edited_field_is_found(edit: Any) -> None:
    stored = live()
    edit(stored)
    compared = compare(DESIRED, stored)
    assert compared.path is not None
    assert compare(DESIRED, compared.put_right).differences == ()
    assert patched(stored, list(change(stored, compared.put_right))) == compared.put_right


def test_the_path_names_the_field() -> None:
    stored = live()
    container(stored)["env"][0]["value"] = "qwen"
    assert first_difference(DESIRED, stored) == "spec.template.spec.containers[server].env[LLM_MODE]"


def test_a_quantity_written_another_way_is_no_difference() -> None:
    stored = live()
    container(stored)["resources"]["limits"]["memory"] = "1024Mi"
    assert first_difference(DESIRED, stored) is None


@pytest.mark.parametrize(
    ("one", "other"), [("0.5", "500m"), ("1", 1), ("1Gi", "1024Mi"), ("1e3", "1k"), ("2.", "2"), (".5", "0.5")]
)
def test_quantities_are_equal_by_value(one: object, other: object) -> None:
    assert quantity.equal(one, other)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("1000m", "1"),
        (1, "1"),
        ("1Gi", "1073741824"),
        ("0.50", "0.5"),
        ("1e3", "1000"),
        (0, "0"),
        ("0.0", "0"),
        ("x", "x"),
    ],
)
def test_a_quantity_has_one_canonical_text(value: str | int, text: str) -> None:
    assert quantity.canonical(value) == text


@pytest.mark.parametrize(("one", "other"), [("1", "1m"), ("1G", "1Gi"), (None, "0"), ("x", "x"), (True, 1), ("", "")])
def test_other_things_are_not_equal_quantities(one: object, other: object) -> None:
    assert not quantity.equal(one, other)


@pytest.mark.parametrize(
    ("desired", "stored", "path"),
    [
        ({"volumes": [{"name": "a"}]}, {"volumes": "none"}, "volumes"),
        ({"args": [1, 2]}, {"args": [1]}, "args"),
        ({"args": [1, 2]}, {"args": [1, 3]}, "args"),
        ({"tolerations": [1, 2]}, {"tolerations": [1, 3]}, "tolerations[1]"),
        ({"tolerations": [1, 2]}, {"tolerations": [3, 2, 1]}, None),
        ({"volumes": [{"name": "a", "emptyDir": {}}]}, {"volumes": [{"name": "a", "nfs": {}}]}, "volumes[a]"),
        ({"ports": [{"name": "a", "port": 1}]}, {"ports": "none"}, "ports"),
        ({"limits": {"cpu": 1}}, {"limits": {"cpu": "2"}}, "limits.cpu"),
        ({"emptyDir": {"sizeLimit": "1Gi"}}, {"emptyDir": {"sizeLimit": "1024Mi"}}, None),
        ({"spec": {"a": 1}}, {"spec": None}, "spec"),
        ({"spec": {}}, {}, None),
        ({"volumes": []}, {}, None),
    ],
)
def test_lists_and_maps_that_are_not_there_or_of_another_kind(desired: Any, stored: Any, path: str | None) -> None:
    assert first_difference(desired, stored) == path


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text("ab", max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("ab", min_size=1, max_size=2), inner, max_size=3)
    ),
    max_leaves=12,
)


@given(VALUES)
def test_nothing_differs_from_itself(value: object) -> None:
    assert first_difference(value, copy.deepcopy(value)) is None


@given(st.dictionaries(st.sampled_from("abcd"), VALUES), st.dictionaries(st.sampled_from("wxyz"), VALUES))
def test_extra_keys_never_make_a_difference(desired: dict[str, object], extra: dict[str, object]) -> None:
    assert first_difference(desired, {**extra, **desired}) is None
