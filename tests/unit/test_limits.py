"What the page refuses: too much, too often, and requests from elsewhere."

import pytest

from ftguide.serving.errors import PageError
from ftguide.serving.limits import Limits, RateLimiter

pytest.importorskip("starlette")
from ftguide.serving.guard import RequestGuard

JOIN = "/gradio_api/queue/join"


def test_an_address_may_call_so_often_in_a_minute():
    now = [0.0]
    allowed = RateLimiter(2, seconds=60, clock=lambda: now[0])
    assert [allowed("ana") for _ in range(3)] == [True, True, False]
    assert allowed("ben")
    now[0] = 61.0
    assert allowed("ana")


@pytest.mark.parametrize("value", [0, -1, 1.5, True, "9"])
def test_a_limit_is_a_whole_number_above_0(value):
    with pytest.raises(PageError, match="per_minute must be a whole number above 0"):
        Limits(per_minute=value)


def refused(path, method="GET", guard=None, **headers):
    "Status of a refusal; None where the request is let through."
    headers = {"host": "127.0.0.1:7860", **headers}
    raw = [(k.replace("_", "-").encode(), v.encode()) for k, v in headers.items()]
    guard = guard or RequestGuard(None, {"127.0.0.1"}, Limits())
    found = guard.refuse(dict(type="http", path=path, method=method, headers=raw, client=("127.0.0.1", 1)))
    return found and found[0]


@pytest.mark.parametrize(
    "status, path, method, headers",
    [
        (None, "/", "GET", {}),
        (403, "/", "GET", dict(host="evil.example")),
        (403, JOIN, "POST", dict(content_length="9", origin="https://evil.example")),
        (None, JOIN, "POST", dict(content_length="9", origin="http://127.0.0.1:7860")),
        (413, JOIN, "POST", dict(content_length="999999")),
        (411, JOIN, "POST", {}),
        (404, "/gradio_api/upload", "POST", dict(content_length="9")),
    ],
)
def test_requests_that_the_page_does_not_need_are_refused(status, path, method, headers):
    assert refused(path, method, **headers) == status


def test_passwords_cannot_be_tried_for_ever():
    guard = RequestGuard(None, None, Limits(logins=2))
    tries = [refused("/login", "POST", guard, content_length="9") for _ in range(3)]
    assert tries == [None, None, 429]
