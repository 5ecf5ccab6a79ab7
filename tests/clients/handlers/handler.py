"""handler.py 127.0.0.1:5001: a small game as a handler in Python. Start a connector with --route
'game.*=http://127.0.0.1:5001'. It needs grpcio, grpcio-tools and the folder proto/ of this project."""
import json, pathlib, sys
from concurrent.futures import ThreadPoolExecutor
import grpc

sys.path.append(str(pathlib.Path(__file__).parents[3] / "proto"))
messages, services = grpc.protos_and_services("route/v1/route_handler.proto")
places = {}  # user → where it stands


def move(user, body):
    x, y = body.get("x"), body.get("y")
    if not all(isinstance(it, int) for it in (x, y)):
        # What is wrong in the game is an answer like any other.
        return {"code": 1, "message": "x and y must be whole numbers"}
    places[user] = x, y
    return {"code": 0, "at": places[user], "players": len(places)}


ROUTES = {"game.handler.move": move}


class Game(services.RouteHandlerServicer):
    def Handle(self, request, context):
        if request.route not in ROUTES:
            # The client is told that the handler has failed; the connector logs why.
            context.abort(grpc.StatusCode.UNIMPLEMENTED, f"no such route: {request.route}")
        answer = ROUTES[request.route](request.user, json.loads(request.body_json))
        return messages.HandleResponse(body_json=json.dumps(answer).encode())


# One request of a client comes after the other, but those of several clients come at once.
server = grpc.server(ThreadPoolExecutor(max_workers=16))
services.add_RouteHandlerServicer_to_server(Game(), server)
address = sys.argv[1]
port = server.add_insecure_port(address)
server.start()
print(f"listening at {address.rsplit(':', 1)[0]}:{port}", flush=True)
server.wait_for_termination()
