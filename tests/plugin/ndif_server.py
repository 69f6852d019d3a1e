"""A server with the protocol of NDIF, for one tiny model, in a separate process.

It reads and runs the request of nnsight as nnsight's servers do. As on NDIF, a request may import
only a few modules, and not this package. ``python ndif_server.py PORT OUTCOME`` writes its port to
the file PORT. The file OUTCOME says how the next job ends: ``succeeds``, ``disconnects`` or
``fails``. The sizes of requests and results, in bytes, are written to ``PORT.sizes``.
"""

from __future__ import annotations

import base64
import hashlib
import io
import queue
import sys
import threading
from collections.abc import Callable
from email.parser import BytesParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

ALLOWED = {
    *("torch", "numpy", "transformers", "nnsight", "cloudpickle", "copyreg", "builtins", "pickle"),
    *("collections", "dataclasses", "typing", "functools", "math", "re", "operator", "json"),
}
PORT, OUTCOME = Path(sys.argv[1]), Path(sys.argv[2])


def load_model() -> Any:
    """Build the model, then unload this package, which is not installed on NDIF."""
    import torch

    from pytest_nnsight import nnsight_api
    from pytest_nnsight.models import tiny

    model = nnsight_api.wrap(*tiny.build("gpt2", torch.float32, None))
    for name in [name for name in sys.modules if name.startswith("pytest_nnsight")]:
        del sys.modules[name]
    sys.meta_path.insert(0, ImportBlocker())
    return model


class ImportBlocker:
    """Refuses to import this package."""

    def find_spec(self, name: str, *_: Any) -> None:
        if name.partition(".")[0] == "pytest_nnsight":
            raise ModuleNotFoundError(f"No module named {name!r} on the server")


def run(model: Any, blob: bytes) -> dict[str, Any]:
    """Run a request and return its saved values."""
    from nnsight.intervention.serialization import CustomCloudUnpickler
    from nnsight.schema.request import RequestModel
    from nnsight.tracing import tracer as tracing

    def import_allowed(name: str) -> Any:
        if name.partition(".")[0] not in ALLOWED:
            raise ImportError(f"Module {name} is not whitelisted")
        return __import__(name, fromlist=["_"])

    class Unpickler(CustomCloudUnpickler):
        def find_class(self, module: str, name: str) -> Any:
            import_allowed(module)
            return import_allowed if name == "subimport" else super().find_class(module, name)

    objects = model._remoteable_persistent_objects()
    tracer = RequestModel.deserialize(blob, objects, compress=True, unpickler=Unpickler)
    tracing.inc()
    try:
        frame = tracer.info.frame
        before = dict(frame.f_locals)
        tracer.execute(tracer.info.code)
        return {k: v for k, v in frame.f_locals.items() if before.get(k) is not v}
    finally:
        tracing.dec()


def run_job(model: Any, blob: bytes, send: Callable[[Any], None]) -> None:
    """Run one job and send its status and result, as NDIF does."""
    import torch
    import zstandard
    from nnsight.schema.response import ResponseModel, Status

    def send_status(status: Status, description: str = "", data: Any = None) -> None:
        send(ResponseModel(id="job-1", status=status, description=description, data=data))

    send_status(Status.QUEUED, "you are number 3")
    send_status(Status.RUNNING)
    outcome = OUTCOME.read_text()
    if outcome == "disconnects":
        send(None)
        return
    try:
        if outcome == "fails":
            raise RuntimeError("CUDA out of memory")
        buffer = io.BytesIO()
        torch.save(run(model, blob), buffer)
    except Exception as error:
        send_status(
            Status.ERROR, f"Traceback (most recent call last):\n{type(error).__name__}: {error}"
        )
        return
    result = zstandard.ZstdCompressor(level=6).compress(buffer.getvalue())
    with PORT.with_suffix(".sizes").open("a") as sizes:
        sizes.write(f"{len(blob)} {len(result)}\n")
    send_status(Status.COMPLETED, data=result)


def encode_response(response: Any) -> bytes:
    """Encode a message as a websocket frame: binary for a result, else text."""
    is_binary = response.data is not None
    data = response.pickle() if is_binary else response.model_dump_json().encode()
    return encode_frame(data, 2 if is_binary else 1)


def encode_frame(data: bytes, kind: int) -> bytes:
    size = len(data)
    if size < 126:
        return bytes([0x80 | kind, size]) + data
    if size < 1 << 16:
        return bytes([0x80 | kind, 126]) + size.to_bytes(2, "big") + data
    return bytes([0x80 | kind, 127]) + size.to_bytes(8, "big") + data


def serve() -> None:
    """Serve requests until the process ends."""
    model = load_model()
    jobs: queue.Queue[bytes] = queue.Queue()
    job_lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            key = self.headers["Sec-WebSocket-Key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
            accept = base64.b64encode(hashlib.sha1(key.encode()).digest()).decode()
            self.send_response(101)
            self.send_header("Upgrade", "websocket")
            self.send_header("Connection", "Upgrade")
            self.send_header("Sec-WebSocket-Accept", accept)
            self.end_headers()
            self.wfile.write(encode_frame(b'{"session_id": "one"}', 1))
            self.close_connection = True
            with job_lock:
                run_job(model, jobs.get(timeout=60), self.send_message)

        def send_message(self, response: Any) -> None:
            if response is None:
                self.connection.close()
            else:
                self.wfile.write(encode_response(response))

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("ndif-api-key") != "a key":
                self.reply(401, b'{"detail": "Missing or invalid API key"}')
                return
            head = f"Content-Type: {self.headers['Content-Type']}\n\n".encode()
            parts = BytesParser().parsebytes(head + body).get_payload()
            jobs.put(parts[1].get_payload(decode=True))
            self.reply(200, b'{"id": "job-1", "status": "RECEIVED"}')

        def reply(self, code: int, text: bytes) -> None:
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    PORT.with_suffix(".tmp").write_text(str(server.server_port))
    PORT.with_suffix(".tmp").rename(PORT)
    server.serve_forever()


if __name__ == "__main__":
    serve()
