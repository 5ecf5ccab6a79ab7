"""One client of python-socketio for each choice of transports, all in one room, with the library's own settings.

    reconnecting.py HOST:PORT ROOM

Nothing here reconnects. Each line of output is a JSON array, as in reconnecting.js.
"""

import json
import struct
import sys
import threading

import socketio

ADDRESS, ROOM = sys.argv[1:]
LOGIN, SEND = "connector.handler.login", "chat.handler.send"
output = threading.Lock()


def start(name, transports):
    client = socketio.Client()
    connections = 0

    def tell(event, what):
        with output:
            print(json.dumps([name, event, what]), flush=True)

    def request(number, route, body):
        head = struct.pack(">IB", number, len(route)).decode("latin-1")
        client.send(head + route + json.dumps(body))

    def connected():
        nonlocal connections
        connections += 1
        tell("connected", connections)
        request(1, LOGIN, {"userId": name, "lessonId": ROOM})

    def received(text):
        message = json.loads(text)
        if message.get("id") == 1:
            tell("login", message["body"]["code"])
            request(2, SEND, {"type": 1, "content": f"{name}: {connections}"})
        elif message.get("id") == 2:
            tell("sent", message["body"]["code"])
        elif message.get("route") == "onMessage":
            tell("heard", (message.get("body") or message)["content"])
        elif message.get("route") == "onKick":
            tell("kicked", message)

    client.on("connect", connected)
    client.on("message", received)
    client.on("disconnect", lambda reason: tell("disconnect", reason))
    client.connect(f"http://{ADDRESS}", transports=transports)
    return client


clients = [
    start("python-socketio by " + (" then ".join(transports)), transports)
    for transports in (["websocket"], ["polling"], ["polling", "websocket"])
]
for client in clients:
    client.wait()
