"""client.py ws://127.0.0.1:3010/ws USER CHANNEL: logs in, says each line of its input, prints what it is given, and loses
nothing when it loses its connection."""
import asyncio, itertools, json, random, sys, uuid
from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

url, user, channel = sys.argv[1:4]
run, ids = uuid.uuid4().hex, itertools.count(1)
unanswered = {}  # id → what was said and may not have arrived
position = None  # of the last push that we were given


async def ask(socket, id, route, body):
    # With its key a message that is sent again is the same message.
    await socket.send(json.dumps({"id": id, "route": route, "body": body, "key": f"{run}-{id}"}))


async def speak(socket, lines):
    for id, text in list(unanswered.items()):
        await ask(socket, id, "chat.handler.send", {"content": text})
    while text := await lines.get():
        unanswered[id := next(ids)] = text
        await ask(socket, id, "chat.handler.send", {"content": text})


async def converse(socket, lines):
    global position
    since = {"since": position} if position else {"positions": True}
    await ask(socket, 0, "connector.handler.login", {"userId": user, "lessonId": channel, **since})
    login = json.loads(await socket.recv())["body"]
    if login["code"] != 0:
        raise OSError(login)
    position = position or login["position"]
    speaking = asyncio.create_task(speak(socket, lines))
    async for text in socket:
        match json.loads(text):
            case {"id": id, "body": {"code": 0}}:
                del unanswered[id]
            case {"route": "onPosition", "body": body}:
                position = {"epoch": body["epoch"], "offset": body["offset"]}
            case {"route": route, "offset": offset, "body": body}:
                position["offset"] = offset
                print(route, json.dumps(body, ensure_ascii=False), flush=True)
    speaking.cancel()


async def main():
    lines, loop = asyncio.Queue(), asyncio.get_running_loop()
    loop.add_reader(sys.stdin, lambda: lines.put_nowait(sys.stdin.readline().strip()))
    while True:
        try:
            async with connect(url) as socket:
                await converse(socket, lines)
        except (OSError, WebSocketException) as reason:
            print("lost:", reason, file=sys.stderr)
        await asyncio.sleep(random.uniform(0.1, 1))

asyncio.run(main())
