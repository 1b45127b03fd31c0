"""A judge at a loopback address that speaks OpenAI's API, and misbehaves as told."""

import json
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Judge:
    """What it was asked, how often, by how many at once; `misbehave(n)` says what to do with the n-th request."""

    def __init__(self, answer, misbehave=lambda n: None):
        self.answer, self.misbehave = answer, misbehave
        self.prompts, self.keys, self.at_once, self.most_at_once = [], [], 0, 0
        self.lock = threading.Lock()


@contextmanager
def serving(judge):
    """Its base URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with judge.lock:
                judge.prompts.append(body["messages"][0]["content"])
                judge.keys.append(self.headers.get("Authorization"))
                number = len(judge.prompts)
                judge.at_once += 1
                judge.most_at_once = max(judge.most_at_once, judge.at_once)
            try:
                self.reply(judge.misbehave(number), body)
            finally:
                with judge.lock:
                    judge.at_once -= 1

        def reply(self, fault, body):
            assert self.path == "/v1/chat/completions"
            assert (body["temperature"], body["seed"]) == (0, 123)
            status, headers, content = 200, {}, None
            if isinstance(fault, float):
                time.sleep(fault)
            elif isinstance(fault, int):
                status, headers = fault, {"Retry-After": "0"}
                content = json.dumps({"error": {"message": f"no, {self.headers.get('Authorization')}"}})
            elif isinstance(fault, str):
                content = fault
            if content is None:
                text = judge.answer(body["messages"][0]["content"])
                usage = {"prompt_tokens": 50, "completion_tokens": 2}
                content = json.dumps(
                    {"choices": [{"message": {"role": "assistant", "content": text}}], "usage": usage}
                )
            try:
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(content.encode())))
                self.end_headers()
                self.wfile.write(content.encode())
            except (BrokenPipeError, ConnectionResetError):
                pass  # who asked has gone

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
