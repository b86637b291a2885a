"""Whose trace a request joins."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiobs.serving.callers import caller_of
from aiobs.serving.request import ServerRequest
from aiobs.testing import CapturedSpan, capture

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PARENT = f"00-{TRACE}-{SPAN}-01"


def asked(peer: str, policy: str = "auto", **headers: str) -> CapturedSpan:
    """The span of a request with these headers (``_`` for ``-``)."""
    sent = {name.replace("_", "-"): value for name, value in {"traceparent": PARENT, **headers}.items()}
    with capture(serving_callers=policy) as captured:
        ServerRequest.begin("GET", {}, sent.get, peer).end()
    return captured.span("GET")


def verdict(span: CapturedSpan) -> str:
    linked = [link for link in span.links if link.trace_id.hex() == TRACE]
    continued = span.trace_id == TRACE
    if continued:
        assert span.parent_id == SPAN and not linked
    else:
        assert (span.parent_id == "" and not linked) or linked[0].span_id.hex() == SPAN
    said = span.attributes.get("aiobs.request.caller", "")
    found = "continued" if continued else "linked" if linked else "ignored"
    assert said in (found, "")
    return found


@pytest.mark.parametrize(
    "peer",
    ["127.0.0.1", "::1", "", "10.2.3.4", "192.168.0.7", "172.16.9.1", "fd00::1", "fe80::1%eth0", "::ffff:10.0.0.1"],
)
def test_neighbours_are_continued(peer: str) -> None:
    assert verdict(asked(peer)) == "continued"


@pytest.mark.parametrize(
    "peer", ["8.8.8.8", "2001:4860:4860::8888", "::ffff:8.8.8.8", "unknown", "testclient", "1.2.3"]
)
def test_strangers_are_linked(peer: str) -> None:
    assert verdict(asked(peer)) == "linked"


@pytest.mark.parametrize(
    ("header", "value", "expected"),
    [
        ("x_forwarded_for", "8.8.8.8", "linked"),
        ("x_forwarded_for", "10.0.0.1, 8.8.8.8, 10.0.0.2", "linked"),
        ("x_forwarded_for", "10.0.0.1, 10.0.0.2:4711", "continued"),
        ("x_forwarded_for", "unknown", "linked"),
        ("x_forwarded_for", "10.0.0.1," * 1000, "linked"),
        ("x_real_ip", "8.8.8.8", "linked"),
        ("x_real_ip", "10.0.0.1", "continued"),
        ("forwarded", 'for="[2001:4860:4860::8888]:443";proto=https', "linked"),
        ("forwarded", "for=8.8.8.8", "linked"),
        ("forwarded", "by=10.9.9.9;for=10.0.0.1, for=10.0.0.2", "continued"),
        ("forwarded", "for=_hidden", "linked"),
    ],
)  # fmt: skip
def test_those_behind_a_proxy_count(header: str, value: str, expected: str) -> None:
    assert verdict(asked("127.0.0.1", **{header: value})) == expected


@pytest.mark.parametrize(("policy", "expected"), [("trust", "continued"), ("link", "linked"), ("ignore", "ignored")])
@pytest.mark.parametrize("peer", ["127.0.0.1", "8.8.8.8"])
def test_policies(policy: str, expected: str, peer: str) -> None:
    assert verdict(asked(peer, policy, x_forwarded_for="8.8.4.4")) == expected


@pytest.mark.parametrize(
    "bad",
    [
        "", "00", PARENT.upper(), PARENT + "-00", f"ff-{TRACE}-{SPAN}-01", f"00-{'0' * 32}-{SPAN}-01", f"00-{TRACE}-{'0' * 16}-01",
        f"{PARENT},{PARENT}", "01-" + PARENT[3:] + "-" + "x" * 300,
    ],
)  # fmt: skip
def test_malformed_headers_count_as_absent(bad: str) -> None:
    assert verdict(asked("127.0.0.1", traceparent=bad)) == "ignored"


def test_tracestate_is_bounded() -> None:
    members = ",".join(f"vendor{number}=value{number}" for number in range(40))
    caller = caller_of({"traceparent": PARENT, "tracestate": members}.get, "", "auto")
    assert caller.parent is not None and 0 < len(caller.parent.trace_state) <= 512
    caller = caller_of({"traceparent": PARENT, "tracestate": "a=" + "x" * 100_000}.get, "", "auto")
    assert caller.parent is not None and caller.parent.trace_state == ""


@given(st.text(max_size=100), st.text(max_size=100), st.text(max_size=60), st.text(max_size=60))
def test_anything_may_be_sent(parent: str, forwarded: str, addresses: str, peer: str) -> None:
    headers = {"traceparent": parent, "forwarded": forwarded, "x-forwarded-for": addresses, "tracestate": parent}
    assert caller_of(headers.get, peer, "auto").verdict in ("", "continued", "linked")
    headers["traceparent"] = PARENT
    assert caller_of(headers.get, peer, "auto").verdict in ("continued", "linked")
