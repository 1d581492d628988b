"""`./dev agent`: a provider for the agents of a tour, on a free port of 127.0.0.1. It prints the idempotency key of each call."""

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

MAX_BYTES = 1024 * 1024


def work(body: dict) -> dict:
    """What an agent of kind `http` answers: any JSON."""
    words = [word for value in body.values() if isinstance(value, str) for word in value.split()]
    return {"answer": f"You asked with {len(words)} words.", "fields": sorted(body)}


def completion(body: dict) -> dict:
    """What an agent of kind `llm` answers: a chat completion, as OpenAI's API has it."""
    messages = body["messages"]
    asked = sum(len(str(message.get("content", "")).split()) for message in messages)
    text = f"I was told {len(messages)} messages."
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 0,
        "model": body["model"],
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": asked, "completion_tokens": 5, "total_tokens": asked + 5},
    }


ANSWERS = {"/work": work, "/v1/chat/completions": completion}


class Provider(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Headers and body go out as one: kept connections would else wait for each other's acknowledgements.
    wbufsize = -1
    timeout = 60

    def do_POST(self) -> None:
        status, answer = self.answer()
        body = json.dumps(answer).encode()
        print(f"POST {self.path}   Idempotency-Key: {self.headers.get('Idempotency-Key', 'none')}   {status}", flush=True)
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def answer(self) -> tuple[int, dict]:
        length = self.headers.get("Content-Length", "")
        if not length.isdigit() or int(length) > MAX_BYTES:
            self.close_connection = True
            return 413, {"error": "a body of known length is wanted, at most a MiB"}
        body = self.rfile.read(int(length))
        if self.path not in ANSWERS:
            return 404, {"error": "there are /work and /v1/chat/completions"}
        try:
            return 200, ANSWERS[self.path](json.loads(body))
        except (ValueError, KeyError, TypeError, AttributeError):
            return 400, {"error": "this is no body of that kind"}

    def log_message(self, *_: object) -> None:
        """Says nothing: one line a call is printed above, and bodies are nobody's business."""


def main() -> int:
    with ThreadingHTTPServer(("127.0.0.1", 0), Provider) as server:
        url = f"http://127.0.0.1:{server.server_port}"
        print("A provider for agents is up: POST /work, POST /v1/chat/completions. For the other terminal:", flush=True)
        print(f"export AGENT={url}", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            pass
    return 0


if __name__ == "__main__":
    sys.exit(main())
