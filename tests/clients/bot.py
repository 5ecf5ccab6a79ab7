"""Answers each message that begins with "!echo ", in all channels whose names begin with a prefix: each exactly once.

    python -m grpc_tools.protoc -I proto --python_out=DIR --grpc_python_out=DIR $(find proto -name '*.proto')
    PYTHONPATH=DIR python tests/clients/bot.py PREFIX FILE HOST:PORT…        (chats; one that runs is enough)

FILE holds the bot's place in each channel. After a crash, the last seconds before it are given again. So the key of an
answer is the position of its question: an answer that is sent again is stored once. Chat remembers keys for five minutes.
A bot that stays away for longer may answer the questions of those last seconds twice.
"""
import itertools, json, os, random, sys, time
import grpc
from chat.v1 import chat_service_pb2 as api, chat_service_pb2_grpc
from chat.v1.channel_pb2 import Position

BOT, ASKS = "echo-bot", "!echo "
FINAL = {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.ALREADY_EXISTS}  # Sending it again would not help.
OPTIONS = [("grpc.keepalive_time_ms", 10_000), ("grpc.http2.max_pings_without_data", 0)]  # A chat that hangs is left.

prefix, file, *addresses = sys.argv[1:]
resume = os.path.exists(file)
places = json.load(open(file)) if resume else {}

def store():  # A crash leaves the old file or the new one, and never half of one.
    with open(file + ".new", "w") as new:
        json.dump(places, new), new.flush(), os.fsync(new.fileno())
    os.replace(file + ".new", file)

def learn(channel, at):  # An ended channel has an empty place. Without one, a channel begins at its first message.
    places.update({channel: (at.epoch, at.offset)}) if at.epoch else places.pop(channel, None)

def answer(chat, channel, asked):
    text, at = json.loads(asked.body_json).get("content"), asked.position
    if asked.user != BOT and isinstance(text, str) and text.startswith(ASKS):
        body, key = json.dumps({"content": text.removeprefix(ASKS)}).encode(), f"{at.epoch}:{at.offset}"
        try:
            chat.Send(api.SendRequest(channel=channel, user=BOT, body_json=body, idempotency_key=key), timeout=5)
            print("answered", channel, at.offset, flush=True)
        except grpc.RpcError as error:  # Any other error ends this watch, and the next one gives the question again.
            if error.code() not in FINAL: raise
            print("cannot answer", channel, at.offset, error.details(), flush=True)

for address in itertools.cycle(addresses):
    try:
        with grpc.insecure_channel(address, OPTIONS) as connection:
            chat = chat_service_pb2_grpc.ChatServiceStub(connection)
            known = [api.WatchPlace(channel=it, position=Position(epoch=e, offset=n)) for it, (e, n) in places.items()]
            for event in chat.Watch(api.WatchRequest(prefix=prefix, resume=resume, places=known, routes=["onMessage"])):
                match event.WhichOneof("event"):
                    case "opened": learn(event.opened.channel, event.opened.position)
                    case "publication":
                        answer(chat, event.publication.channel, event.publication.publication)
                        learn(event.publication.channel, event.publication.publication.position)
                    case "progress": [learn(it.channel, it.position) for it in event.progress.places], store()
                    case "started": resume = True; store(); print("watching", flush=True)
                    case "gap": print("messages are missing:", event.gap, flush=True)
    except grpc.RpcError as error:
        print("going to the next chat:", error.code(), error.details(), flush=True)
    time.sleep(random.uniform(0.1, 0.3))
