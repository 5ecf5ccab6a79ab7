"""hook.py 127.0.0.1:5001 access.json: a hook in Python that knows passwords, rooms and words. Start a connector with
--auth-mode hook --auth-hook-target http://127.0.0.1:5001, and with rules of channels that say "hook". It needs grpcio,
grpcio-tools and the folder proto/ of this project. The file is read again for each question:
{"passwords": {"ann": "blue"}, "rooms": {"ann": ["garden"]}, "seconds": 30, "words": {"darn": "****"}, "forbidden": "buy now"}"""
import hmac, json, pathlib, sys
from concurrent.futures import ThreadPoolExecutor
import grpc

sys.path.append(str(pathlib.Path(__file__).parents[3] / "proto"))
messages, services = grpc.protos_and_services("access/v1/access_hook.proto")


def access():
    return json.loads(pathlib.Path(sys.argv[2]).read_text())


def denied(denial, reason):
    # The connector logs the reason. The client only learns that it is not let in.
    return messages.Denied(denial=denial, reason=reason)


class Hook(services.AccessHookServicer):
    def Login(self, request, context):
        # Store hashes of passwords, such as those of hashlib.scrypt. This is only an example.
        password = access()["passwords"].get(request.user)
        if password is None or not hmac.compare_digest(password.encode(), request.token.encode()):
            reason = f"{request.user!r} at {request.address}: wrong password"
            return messages.LoginResponse(denied=denied(messages.DENIAL_UNAUTHENTICATED, reason))
        rooms = access()["rooms"].get(request.user, [])
        return messages.LoginResponse(granted=messages.Granted(user=request.user, channels=rooms))

    def Refresh(self, request, context):
        password = access()["passwords"].get(request.user)
        if password is None or not hmac.compare_digest(password.encode(), request.token.encode()):
            return messages.RefreshResponse(denied=denied(messages.DENIAL_UNAUTHENTICATED, "wrong password"))
        return messages.RefreshResponse(granted=messages.Granted(user=request.user))

    def AuthorizeChannels(self, request, context):
        now = access()
        rooms = now["rooms"].get(request.user, [])
        answer = messages.AuthorizeChannelsResponse()
        answer.cache_ttl.seconds = now.get("seconds", 30)
        for question in request.channels:
            if question.channel in rooms:
                answer.channels.add(channel=question.channel, allowed=question.rights)
        return answer

    def AuthorizeSend(self, request, context):
        now = access()
        body = json.loads(request.body_json)
        content = body.get("content")
        if not isinstance(content, str):
            return messages.AuthorizeSendResponse(allowed=True)
        if now.get("forbidden", "\0") in content:
            return messages.AuthorizeSendResponse(allowed=False)
        # The same message is always changed in the same way, so a client can send it again with the same key.
        for word, instead in now.get("words", {}).items():
            content = content.replace(word, instead)
        if content == body["content"]:
            return messages.AuthorizeSendResponse(allowed=True)
        changed = json.dumps(body | {"content": content}, separators=(",", ":"))
        return messages.AuthorizeSendResponse(allowed=True, body_json=changed.encode())


server = grpc.server(ThreadPoolExecutor(max_workers=16))
services.add_AccessHookServicer_to_server(Hook(), server)
address = sys.argv[1]
port = server.add_insecure_port(address)
server.start()
print(f"listening at {address.rsplit(':', 1)[0]}:{port}", flush=True)
server.wait_for_termination()
