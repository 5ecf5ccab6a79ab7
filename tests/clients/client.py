"""client.py ws://127.0.0.1:3010/ws USER CHANNEL: logs in, sends each line of its input, prints what it receives, and
loses nothing when its connection breaks. It notices by itself when the server is gone, and does not repeat what was
refused for good."""
import asyncio, itertools, json, random, sys, uuid
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, WebSocketException

TIMES = {"ping_interval": 10, "ping_timeout": 5, "open_timeout": 5, "close_timeout": 1}
TOO_BIG = 1009  # the close code for a message beyond the server's limit
url, user, channel = sys.argv[1:4]
run, ids = uuid.uuid4().hex, itertools.count(1)
unanswered = {}  # id → a message that was sent and may not have arrived
due = asyncio.Queue()  # ids of messages to send now
position = None  # of the last push that we received
secret = None  # proves at the next login that the session is ours, also before the server has noticed the loss
failures = 0  # since the last connection that was of use
wait = 0  # seconds, as the server has asked for


async def ask(socket, id, route, body):
    # The key makes a retry safe: the server stores the message once.
    await socket.send(json.dumps({"id": id, "route": route, "body": body, "key": f"{run}-{id}"}))


async def speak(socket):
    for id in list(unanswered):
        await ask(socket, id, "chat.handler.send", {"content": unanswered[id]})
    while id := await due.get():
        if id in unanswered:
            await ask(socket, id, "chat.handler.send", {"content": unanswered[id]})


async def log_in(socket):
    global secret
    since = {"since": position} if position else {"positions": True}
    body = {"userId": user, "lessonId": channel, "resume": secret, **since}
    await ask(socket, 0, "connector.handler.login", body)
    login = json.loads(await socket.recv())["body"]
    if login["code"] == 0:
        secret = login["resume"]
        return position or login["position"]
    if not login["retry"]:
        sys.exit(f"refused: {login['message']}")
    await asyncio.sleep(login["retryAfterMs"] / 1000)
    raise OSError(login["message"])


async def listen(socket, loop):
    global failures, position, wait
    async for text in socket:
        match json.loads(text):
            case {"id": id, "body": {"code": 0}}:
                unanswered.pop(id, None)
                failures = 0
            case {"id": id, "body": {"retry": True, "retryAfterMs": pause}}:
                loop.call_later(pause / 1000 * random.uniform(1, 2), due.put_nowait, id)
            case {"id": id, "body": refusal}:
                print("refused:", unanswered.pop(id, None), refusal["message"], file=sys.stderr)
            case {"route": "onKick", "body": {"reconnect": False, "reason": reason}}:
                sys.exit(f"closed: {reason}")
            case {"route": "onKick", "body": {"reconnectAfterMs": pause}}:
                wait = pause / 1000
            case {"route": "onPosition", "body": body}:
                position = {"epoch": body["epoch"], "offset": body["offset"]}
            case {"route": route, "offset": offset, "body": body}:
                position["offset"] = offset
                failures = 0 if route == "onMessage" else failures
                print(route, json.dumps(body, ensure_ascii=False), flush=True)


async def main():
    global failures, position, wait
    loop = asyncio.get_running_loop()

    def read():
        if not (line := sys.stdin.readline()):
            return loop.remove_reader(sys.stdin)
        unanswered[id := next(ids)] = line.strip()
        due.put_nowait(id)

    loop.add_reader(sys.stdin, read)
    while True:
        try:
            async with connect(url, **TIMES) as socket:
                position = await log_in(socket)
                speaking = asyncio.create_task(speak(socket))
                try:
                    await listen(socket, loop)
                finally:
                    speaking.cancel()
        except (OSError, WebSocketException) as reason:
            print("lost:", reason, file=sys.stderr)
            if isinstance(reason, ConnectionClosed) and reason.rcvd and reason.rcvd.code == TOO_BIG and unanswered:
                # Only the largest message can have been too large. Sent again, it would end the next one, too.
                largest = max(unanswered, key=lambda id: len(unanswered[id]))
                print("refused: too large:", len(unanswered.pop(largest)), file=sys.stderr)
        # The server may have spread the clients whose connections it closes.
        await asyncio.sleep(wait)
        wait = 0
        # A longer pause after each failure, and a random one, because other clients have lost their connections, too.
        await asyncio.sleep(random.uniform(0.5, 1) * min(20, 0.25 * 2**failures))
        failures += 1

asyncio.run(main())
