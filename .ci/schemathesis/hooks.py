"""What schemathesis cannot know of this API: who may ask, and which values lead somewhere.

With the variable API_USER every case that carries authorisation has the access token of that account. What ends a session
or an account gets one of its own, or the rest of the run would meet nothing but 401.
"""

import itertools
import os
import subprocess

import requests
import schemathesis

USER = os.environ.get("API_USER")
PASSWORD = os.environ.get("API_PASSWORD", "")
ENDS_ITS_CALLER = {("DELETE", "/v1/me"), ("DELETE", "/v1/session")}
numbers = itertools.count(1)


def login(username):
    body = {"username": username, "password": PASSWORD}
    answer = requests.post(f"{os.environ['API']}/v1/login", json=body, timeout=20)
    answer.raise_for_status()
    return answer.json()


def one_more_account():
    username = f"passing-{next(numbers)}"
    command = [os.environ["BLUETRACE"], "user", "add", username, "--data-dir", os.environ["API_DATA"]]
    environment = {**os.environ, "BLUETRACE_PASSWORD": PASSWORD}
    subprocess.run(command, env=environment, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, timeout=20)
    return username


@schemathesis.serializer("application/x-ndjson")
def lines(ctx, value):
    return value.encode()


@schemathesis.hook
def filter_case(context, case):
    """Whatever else the bytes of these lines are, they are a text; what a line may not be is an answer's `invalid`."""
    return case.media_type != "application/x-ndjson" or isinstance(case.body, str)


if USER:

    @schemathesis.auth(refresh_interval=None)
    class AccessToken:
        def __init__(self):
            self.shared = login(USER)["accessToken"]

        def get(self, case, ctx):
            if (case.method.upper(), case.operation.path) in ENDS_ITS_CALLER:
                return login(one_more_account())["accessToken"]
            return self.shared

        def set(self, case, data, ctx):
            case.headers["Authorization"] = f"Bearer {data}"

    @schemathesis.hook
    def before_call(context, case, kwargs):
        """Turns what is well-formed into what succeeds, where only a secret can."""
        if case.meta is None or not case.meta.generation.mode.is_positive:
            return
        if case.operation.label == "POST /v1/login":
            case.body = {"username": USER, "password": PASSWORD}
        if case.operation.label == "POST /v1/session":
            case.body = {"resumeToken": login(USER)["resumeToken"]}
