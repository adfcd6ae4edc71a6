"""vLLM's server on a CPU and the OpenAI client: the texts are those of `Decoder`."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest
from vllm_requests import ASK, TINY

pytestmark = pytest.mark.engines
MODULE = "fastedit.integrations.vllm.cpu"


@pytest.fixture(scope="module")
def client(vllm_here, tmp_path_factory):
    openai = pytest.importorskip("openai")
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    command = [sys.executable, "-m", MODULE, "serve", str(TINY), "--served-model-name", "tiny"]
    command += ["--enforce-eager", "--dtype", "float32", "--port", str(port)]
    log = tmp_path_factory.mktemp("server") / "log"
    with log.open("w") as out:
        server = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
    try:
        for _ in range(900):
            if server.poll() is not None:
                break
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5)
                break
            except (urllib.error.URLError, TimeoutError, ConnectionError):
                time.sleep(1)
        assert server.poll() is None, log.read_text()[-4000:]
        yield openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", timeout=900)
    finally:
        server.terminate()
        server.wait(60)


def answer(client, one, stream):
    """Text, tokens where they are counted, and why it ended."""
    asked = {
        "model": "tiny",
        "prompt": one.prompt,
        "max_tokens": one.max_tokens,
        "stop": one.stop,
        "extra_body": {"vllm_xargs": one.extra_args()},
    }
    if not stream:
        out = client.completions.create(**asked)
        return out.choices[0].text, out.usage.completion_tokens
    pieces = client.completions.create(**asked, stream=True, stream_options={"include_usage": True})
    text, tokens = "", 0
    for piece in pieces:
        text += piece.choices[0].text if piece.choices else ""
        tokens = piece.usage.completion_tokens if piece.usage else tokens
    return text, tokens


def test_a_hundred_requests_half_of_them_streamed(client, hundred):
    with ThreadPoolExecutor(16) as pool:
        got = list(pool.map(lambda n: answer(client, hundred[n], n % 2), range(len(hundred))))
    assert got == [(one.text, len(one.ids)) for one in hundred]


@pytest.mark.parametrize("stream", [False, True])
def test_a_chat(client, decoder, stream):
    chat = [{"role": "user", "content": ASK.format("12 + 30")}]
    out = client.chat.completions.create(model="tiny", messages=chat, max_tokens=64, stream=stream)
    if stream:
        text = "".join(piece.choices[0].delta.content or "" for piece in out)
    else:
        text = out.choices[0].message.content
    assert text == decoder.generate([chat], max_new_tokens=64).texts[0]


@pytest.mark.parametrize("extra", [{"threshold": 3}, {"treshold": 0.5}, {"policy": "wino"}])
def test_what_cannot_be_done_is_a_400(client, hundred, extra):
    import openai

    with pytest.raises(openai.BadRequestError) as refused:
        client.completions.create(
            model="tiny", prompt="1 + 1", max_tokens=4, extra_body={"vllm_xargs": extra}
        )
    assert next(iter(extra)) in str(refused.value)
    assert answer(client, hundred[0], False)[0] == hundred[0].text


def test_a_client_that_leaves(client, hundred):
    slow = {"vllm_xargs": {"policy": "low_confidence:threshold=1,steps=none"}}
    pieces = client.completions.create(
        model="tiny", prompt=hundred[1].prompt, max_tokens=500, stream=True, extra_body=slow
    )
    next(iter(pieces))
    pieces.close()
    assert answer(client, hundred[1], True)[0] == hundred[1].text
