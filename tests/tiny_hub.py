"""A server on this machine that publishes a tiny model as the hub does, for downloads."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from stylear.download import CHAMELEON, Part

LARGE = bytes(range(256)) * 4096
INDEX = json.dumps({"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}})
FILES = {
    "me/base/config.json": b"{}",
    "me/base/model.safetensors.index.json": INDEX.encode(),
    "me/base/model-00001-of-00002.safetensors": LARGE,
    "me/base/model-00002-of-00002.safetensors": LARGE[::-1],
    "me/adapter/sub/model.safetensors": b"adapter",
}
BASE = Part(
    (("me/base", "config.json"), ("me/base", "tokenizer.json"), ("me/base", "model.safetensors.index.json")),
    CHAMELEON,
    True,
    ("tokenizer.json",),
)
ADAPTER = {"adapter": Part((("me/adapter", "sub/model.safetensors"),), "MIT")}
SHARD = "base/model-00001-of-00002.safetensors"


class Hub(BaseHTTPRequestHandler):
    """Speaks the hub's protocol: large files are redirected to, with their SHA-256; small ones have git's checksum."""

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.answer(False)

    def do_GET(self):
        self.answer(True)

    def answer(self, whole):
        hub = self.server
        hub.asked.append((self.command, self.path, self.headers.get("Range"), self.headers.get("Authorization")))
        name = self.path.removeprefix("/cdn").removeprefix("/").replace("/resolve/main/", "/")
        content = hub.files.get(name)
        if content is None or hub.status:
            self.send_response(hub.status or 404)
            self.end_headers()
        elif len(content) > 4096 and not self.path.startswith("/cdn"):
            self.send_response(302)
            told = {
                "Location": f"/cdn/{name}",
                "X-Linked-Size": str(len(content)),
                "X-Linked-Etag": f'"{hashlib.sha256(content).hexdigest()}"',
            }
            for header, value in (told | hub.told).items():
                self.send_header(header, value)
            self.end_headers()
        else:
            self.send(content, whole)

    def send(self, content, whole):
        first = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").removesuffix("-"))
        self.send_response(206 if first and self.server.ranges else 200)
        first *= self.server.ranges
        body = self.server.spoil(content)[first:]
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", f'"{hashlib.sha1(b"blob %d" % len(content) + bytes(1) + content).hexdigest()}"')
        self.end_headers()
        if whole:
            self.wfile.write(body[: self.server.cut or len(body)])
            self.server.cut = 0
            self.close_connection = True


@contextmanager
def serving() -> Iterator[ThreadingHTTPServer]:
    """The server at `url`.

    `asked` is what it was asked for; `cut` breaks the next answer off, `spoil` changes it, `told` are its lies.
    """
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.files, server.asked, server.cut, server.ranges, server.status = dict(FILES), [], 0, True, 0
    server.spoil, server.told = lambda content: content, {}
    server.handle_error = lambda *_: None  # of clients that were killed
    server.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()
