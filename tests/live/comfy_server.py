"""A real ComfyUI server for the length of a test: its own base folder, a free port, the pack linked in."""

import asyncio
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from pathlib import Path

ROOT = Path(__file__).parents[2]
GRAPHS = ROOT / "tests" / "api_workflows"
BLUEPRINT = ROOT / "subgraphs" / "Style Reference to Image (StyleAR).json"
PACK = "ComfyUI-StyleAR"
MUTED = 2  # LiteGraph's mode of a node that does not run
STARTS_WITHIN = 900.0  # a busy machine is slow


class ComfyServer:
    """Runs the checkout at COMFYUI_DIR on the CPU, with this Python; use it in a `with` statement."""

    def __init__(self, checkout: str | Path) -> None:
        self.checkout = Path(checkout)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.url = f"http://127.0.0.1:{free.getsockname()[1]}"

    def __enter__(self) -> "ComfyServer":
        self._folder = tempfile.TemporaryDirectory(prefix="comfy")
        self.base = Path(self._folder.name)
        self.log_path = self.base / "server.log"
        (self.base / "custom_nodes").mkdir()
        (self.base / "custom_nodes" / PACK).symlink_to(ROOT, target_is_directory=True)
        options = ["--cpu", "--disable-auto-launch", "--disable-api-nodes", "--preview-method", "auto"]
        options += ["--listen", "127.0.0.1", "--port", self.url.rpartition(":")[2]]
        options += ["--base-directory", str(self.base), "--database-url", "sqlite:///:memory:"]
        with self.log_path.open("w") as log:
            self._process = subprocess.Popen(  # noqa: S603
                [sys.executable, "main.py", *options], cwd=self.checkout, stdout=log, stderr=subprocess.STDOUT
            )
        try:
            self._wait_until_it_answers()
            self.post("/settings", {"Comfy.TutorialCompleted": True, "Comfy.InstalledVersion": "99.0.0"})
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(timeout=30)
        self._folder.cleanup()

    @property
    def log(self) -> str:
        """Everything the server has said so far."""
        return self.log_path.read_text(errors="replace")

    @property
    def cpu_seconds(self) -> float:
        """The processor time that the server has taken so far."""
        import psutil  # ComfyUI's, so not there where these tests are only collected

        times = psutil.Process(self._process.pid).cpu_times()
        return times.user + times.system

    @property
    def pid(self) -> int:
        """The process."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the process still runs."""
        return self._process.poll() is None

    def get(self, path: str) -> dict | list | bytes:
        """GET; JSON is parsed."""
        return self._ask(urllib.request.Request(self.url + path))  # noqa: S310

    def post(self, path: str, body: dict) -> dict | list | bytes:
        """POST a JSON body; an answer of 400 is returned too, as ComfyUI explains itself in it."""
        data, headers = json.dumps(body).encode(), {"Content-Type": "application/json"}
        request = urllib.request.Request(self.url + path, data, headers)  # noqa: S310
        return self._ask(request)

    def queue(self, graph: dict) -> str:
        """Queue an API-format graph; its prompt id. AssertionError with ComfyUI's reasons if refused."""
        answer = self.post("/prompt", {"prompt": graph, "prompt_id": str(uuid.uuid4())})
        assert "prompt_id" in answer and not answer["node_errors"], json.dumps(answer, indent=1)
        return answer["prompt_id"]

    def finish(self, prompt_id: str, within: float = 900.0) -> dict:
        """Wait for a prompt; its history entry, with `outputs` and `status`."""
        until = time.monotonic() + within
        while time.monotonic() < until:
            history = self.get(f"/history/{prompt_id}")
            if prompt_id in history:
                return history[prompt_id]
            time.sleep(0.1)
        raise TimeoutError(f"{prompt_id} has not finished. The log ends with:\n{self.log[-3000:]}")

    def run(self, graph: dict) -> dict:
        """Queue a graph, wait, and give its history entry; AssertionError with the messages if it failed."""
        entry = self.finish(self.queue(graph))
        assert entry["status"]["status_str"] == "success", json.dumps(entry["status"], indent=1)[:4000]
        return entry

    def watch(self, graph: dict, **extra) -> list[tuple[str, dict | bytes]]:
        """Run a graph as the page does, with `extra` data; what the server sends: (type, data), previews as JPEG."""
        import aiohttp  # ComfyUI's, so not there where these tests are only collected

        client, events = uuid.uuid4().hex, []

        async def run() -> None:
            async with aiohttp.ClientSession() as session, session.ws_connect(f"{self.url}/ws?clientId={client}") as ws:
                body = {"prompt": graph, "client_id": client, "extra_data": extra}
                await asyncio.to_thread(self.post, "/prompt", body)
                async for message in ws:
                    if message.type is aiohttp.WSMsgType.BINARY:
                        events.append(("preview", message.data[8:]))  # after the event's and the format's number
                        continue
                    event = json.loads(message.data)
                    events.append((event["type"], event["data"]))
                    if event["type"] in ("execution_success", "execution_error", "execution_interrupted"):
                        return

        asyncio.run(asyncio.wait_for(run(), timeout=900))
        return events

    def pictures(self, entry: dict) -> list[bytes]:
        """The files an entry's SaveImage nodes wrote."""
        saved = [image for out in entry["outputs"].values() for image in out.get("images", ())]
        folder = self.base / "output"
        return [
            (folder / image["subfolder"] / image["filename"]).read_bytes()
            for image in saved
            if image["type"] == "output"
        ]

    def _ask(self, request: urllib.request.Request) -> dict | list | bytes:
        try:
            with urllib.request.urlopen(request, timeout=300) as answer:  # noqa: S310
                body, kind = answer.read(), answer.headers.get_content_type()
        except urllib.error.HTTPError as error:
            if error.code != 400:
                raise
            body, kind = error.read(), "application/json"
        return json.loads(body) if kind == "application/json" and body else body

    def _wait_until_it_answers(self) -> None:
        until = time.monotonic() + STARTS_WITHIN
        while time.monotonic() < until and self.alive:
            try:
                self.get("/system_stats")
                return
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                time.sleep(0.3)
        raise RuntimeError(f"ComfyUI did not start:\n{self.log[-3000:]}")


def active(name: str) -> dict:
    """The API graph of a workflow as it runs when it opens: without the nodes that wait to be switched on."""
    graph, workflow = (
        json.loads((folder / f"{name}.json").read_text(encoding="utf-8")) for folder in (GRAPHS, ROOT / "workflows")
    )
    off = {str(node["id"]) for node in workflow["nodes"] if node["mode"] == MUTED}
    return {node: body for node, body in graph.items() if node not in off}


def checkout() -> str | None:
    """Where COMFYUI_DIR says a ComfyUI is, or None."""
    return os.environ.get("COMFYUI_DIR")
