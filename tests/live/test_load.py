"""A real server takes hundreds of prompts, with errors and stops among them, and keeps nothing of them."""

import copy
import json
import re
import time
import uuid
from pathlib import Path

import pytest

PROMPTS = 200
WARM = 40  # prompts after which what the server keeps for good is there
GROWTH = 0.02
SIDE = 16  # pixels: the smallest picture of the mini
WAYS = ("drawn", "drawn", "drawn", "fails", "drawn", "stopped", "drawn", "nan", "refused", "taken back")


def usage(server) -> tuple[int, int]:
    """Bytes of memory and threads of the server's process."""
    said = Path(f"/proc/{server.pid}/status").read_text()
    rss, threads = (int(re.search(rf"{key}:\s+(\d+)", said)[1]) for key in ("VmRSS", "Threads"))
    return rss * 1024, threads


def ask(server, graph: dict, number: int) -> str | None:
    """Queue one of the prompts in its way; its id, or None where it was refused or taken back."""
    way, graph = WAYS[number % len(WAYS)], copy.deepcopy(graph)
    told = graph["5"]["inputs"]
    told |= {"width": SIDE, "height": SIDE, "batch_size": 1, "seed": number, "window": "1"}
    if way == "fails":
        told["prompt"] = "word " * 10_000
    elif way == "nan":
        told["cfg"] = "nan"
    elif way == "refused":
        told["width"] = -1
    elif way == "stopped":
        told |= {"width": 0, "height": 0, "batch_size": 32}
    answer = server.post("/prompt", {"prompt": graph, "prompt_id": str(uuid.uuid4())})
    assert bool(answer.get("node_errors")) == (way == "refused"), answer
    if way == "refused":
        return None
    if way == "taken back":
        server.post("/queue", {"delete": [answer["prompt_id"]]})
    elif way == "stopped":
        while answer["prompt_id"] in json.dumps(server.get("/queue")):  # ComfyUI forgets what comes as a prompt begins
            server.post("/interrupt", {"prompt_id": answer["prompt_id"]})
            time.sleep(0.1)
    return answer["prompt_id"]


def answered(server, number: int, prompt: str) -> None:
    """A prompt that was queued ended in its way; one that was taken back may have been drawn before."""
    way = WAYS[number % len(WAYS)]
    entry = server.finish(prompt, within=300)
    kinds = {kind for kind, _ in entry["status"]["messages"]}
    expected = {"fails": "execution_error", "nan": "execution_error", "stopped": "execution_interrupted"}
    assert expected.get(way, "execution_success") in kinds, (way, kinds)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc to measure memory")
def test_two_hundred_prompts_with_errors_and_stops_among_them_leave_no_memory_and_no_thread(server, graph):
    before = None
    for first in range(0, PROMPTS + WARM, 10):
        if first == WARM:
            before = usage(server)
        asked = {number: ask(server, graph, number) for number in range(first, first + 10)}
        for number, prompt in asked.items():
            if prompt and WAYS[number % len(WAYS)] != "taken back":
                answered(server, number, prompt)
        while server.get("/prompt")["exec_info"]["queue_remaining"]:
            time.sleep(0.05)
    after = usage(server)
    megabytes, threads = zip(before, after, strict=True)
    print(f"\n{PROMPTS} prompts: {[size >> 20 for size in megabytes]} MiB, {threads} threads before and after")
    assert after[0] <= before[0] * (1 + GROWTH) and after[1] <= before[1]
    server.run(graph)
