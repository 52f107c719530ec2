"""Asks the API server of the tests what programs that nobody here wrote ask of a real one. Ends with an exception where it is wrong."""

import sys

from kubernetes import client, config, watch
from kubernetes.client.rest import ApiException


def refused(status, reason, call):
    try:
        call()
    except ApiException as error:
        assert error.status == status, error
        assert reason in error.body, error.body
        return
    raise AssertionError(f"it was to be refused with {status}")


def objects(api):
    body = client.V1ConfigMap(metadata=client.V1ObjectMeta(name="x", labels={"a": "b"}), data={"k": "v"})
    made = api.create_namespaced_config_map("default", body)
    assert made.metadata.uid and made.metadata.creation_timestamp and made.metadata.namespace == "default"
    refused(409, "AlreadyExists", lambda: api.create_namespaced_config_map("default", body))
    refused(404, "NotFound", lambda: api.read_namespaced_config_map("absent", "default"))

    old = made.metadata.resource_version
    made.metadata.annotations = {"note": "1"}
    written = api.replace_namespaced_config_map("x", "default", made)
    assert int(written.metadata.resource_version) > int(old)
    made.metadata.annotations = {"note": "2"}
    refused(409, "Conflict", lambda: api.replace_namespaced_config_map("x", "default", made))
    same = api.replace_namespaced_config_map("x", "default", written)
    assert same.metadata.resource_version == written.metadata.resource_version, "nothing was changed"

    patch = {"metadata": {"annotations": {"note": None, "other": "y"}}}
    patched = api.patch_namespaced_config_map("x", "default", patch)
    assert patched.metadata.annotations == {"other": "y"} and patched.data == {"k": "v"}
    too_long = {"metadata": {"annotations": {"note": "x" * (256 << 10)}}}
    refused(422, "Invalid", lambda: api.patch_namespaced_config_map("x", "default", too_long))

    pods = api.list_namespaced_pod("default", label_selector="component in (stolon-keeper),stolon-cluster=test")
    assert [pod.metadata.name for pod in pods.items] == ["keeper-0"], pods
    others = api.list_namespaced_pod("default", label_selector="component=stolon-keeper,stolon-cluster!=test")
    assert [pod.metadata.name for pod in others.items] == ["keeper-1"], others
    named = api.list_namespaced_config_map("default", field_selector="metadata.name=x")
    assert [found.metadata.name for found in named.items] == ["x"]


def watches(api):
    state = api.list_namespaced_config_map("default").metadata.resource_version
    for note in "12":
        api.patch_namespaced_config_map("x", "default", {"metadata": {"annotations": {"note": note}}})
    api.patch_namespaced_config_map("x", "default", {"metadata": {"labels": {"a": "c"}}})
    api.delete_namespaced_config_map("x", "default")
    stream = watch.Watch().stream(
        api.list_namespaced_config_map, "default", label_selector="a=b", resource_version=state, timeout_seconds=1
    )
    seen = [(event["type"], event["object"].metadata.annotations["note"]) for event in stream]
    # Without the label it is no longer one of those that are watched.
    assert seen == [("MODIFIED", "1"), ("MODIFIED", "2"), ("DELETED", "2")], seen


def leases(configuration):
    coordination = client.CoordinationV1Api(configuration)
    spec = client.V1LeaseSpec(holder_identity="me", lease_duration_seconds=15)
    lease = client.V1Lease(metadata=client.V1ObjectMeta(name="l"), spec=spec)
    coordination.create_namespaced_lease("default", lease)
    assert coordination.read_namespaced_lease("l", "default").spec.holder_identity == "me"


def forgotten(api):
    stream = watch.Watch().stream(api.list_namespaced_config_map, "default", resource_version="1", timeout_seconds=1)
    try:
        list(stream)
    except ApiException as error:
        assert error.status == 410, error
        return
    raise AssertionError("that state is forgotten")


configuration = config.new_client_from_config(config_file=sys.argv[2])
core = client.CoreV1Api(configuration)
if sys.argv[1] == "everything":
    objects(core)
    watches(core)
    leases(configuration)
else:
    forgotten(core)
print("well")
