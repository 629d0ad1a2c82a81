"""As much of a W&B server as a run needs: it answers the start of a run and keeps what is streamed to it."""

import gzip
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class FakeWandbServer:
    """`streamed`: every row of history; `queries`: names of GraphQL queries; `hang`: answer nothing from now on."""

    def __init__(self):
        self.streamed, self.queries, self.hang = [], [], threading.Event()
        self._released = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._server.handle_error = lambda *_: None  # connections that break when it hangs or stops
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self):
        """Refuse every connection from now on."""
        self._released.set()
        self._server.shutdown()
        self._server.server_close()

    def answer(self, path, body):
        """The JSON answer to one request."""
        if "graphql" in path:
            return {"data": self._query(json.loads(body))}
        if path.endswith("file_stream"):
            chunk = json.loads(body).get("files", {}).get("wandb-history.jsonl", {"offset": 0, "content": []})
            rows = [json.loads(line) for line in chunk["content"]]
            if rows:
                self.streamed[chunk["offset"] :] = rows  # a row at an offset that was taken replaces the old one
            return {"exitcode": None, "limits": {}}
        return {}

    def _query(self, request):
        found = re.match(r"\s*(?:query|mutation)\s+(\w+)", request["query"])
        name, given = found.group(1) if found else "", request.get("variables") or {}
        self.queries.append(name)
        place = {"id": "p", "name": "fewstep", "entity": {"id": "e", "name": "me"}}
        if name == "Viewer":
            return {"viewer": {"id": "v", "entity": "me", "username": "me", "flags": "{}", "teams": {"edges": []}}}
        if name == "RunResumeStatus":
            return {"model": place | {"bucket": self._known(given["name"]) if self.streamed else None}}
        if name == "UpsertBucket":
            run = {"id": "r", "name": given["name"], "displayName": "run", "config": "{}", "historyLineCount": 0}
            return {"upsertBucket": {"bucket": run | {"project": place, "sweepName": None}, "inserted": True}}
        if name == "CreateRunFiles":
            files = [{"name": file, "uploadUrl": f"{self.url}/upload/{file}"} for file in given["files"]]
            return {"createRunFiles": {"runID": "r", "uploadHeaders": [], "files": files}}
        return {}

    def _known(self, name):
        """What a server tells of a run that it has: how much of it is there already."""
        tail, count = json.dumps([json.dumps(self.streamed[-1])]), len(self.streamed)
        run = {"id": "r", "name": name, "displayName": "run", "config": "{}", "summaryMetrics": "{}", "tags": []}
        run |= {"historyLineCount": count, "eventsLineCount": 0, "logLineCount": 0, "historyTail": tail}
        return run | {"eventsTail": "[]", "wandbConfig": json.dumps({"t": 1})}

    def _handler(fake):  # noqa: N805
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args):
                pass

            def do_POST(self):
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                if fake.hang.is_set():
                    fake._released.wait()
                    return
                unpacked = gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body
                answer = json.dumps(fake.answer(self.path, unpacked)).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            do_GET = do_PUT = do_POST  # noqa: N815

        return Handler
