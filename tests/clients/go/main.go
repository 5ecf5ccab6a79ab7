// client ws://127.0.0.1:3010/ws USER CHANNEL: logs in, says each line of its input, prints what it is given, and misses nothing
// when it loses its connection.
package main

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"
	"github.com/coder/websocket/wsjson"
)

type object = map[string]any

func main() {
	var position object // of the last push that we were given
	var current atomic.Pointer[websocket.Conn]
	ctx := context.Background()
	ask := func(id int, route string, body object) error {
		return wsjson.Write(ctx, current.Load(), object{"id": id, "route": route, "body": body})
	}
	for ; ; time.Sleep(rand.N(time.Second)) {
		socket, _, err := websocket.Dial(ctx, os.Args[1], nil)
		if err == nil {
			current.Store(socket)
			login := object{"userId": os.Args[2], "lessonId": os.Args[3], "positions": true, "since": position}
			err = ask(0, "connector.handler.login", login)
		}
		for err == nil {
			var message object
			err = wsjson.Read(ctx, socket, &message)
			body, _ := message["body"].(object)
			switch {
			case message["id"] == 0.0 && body["code"] == 0.0 && position == nil:
				position = body["position"].(object)
				go func() {
					for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
						ask(1, "chat.handler.send", object{"content": lines.Text()})
					}
				}()
			case message["id"] != nil && body["code"] != 0.0:
				fmt.Fprintln(os.Stderr, "refused:", body)
			case message["route"] == "onPosition":
				position = body
			case message["route"] != nil && message["offset"] != nil:
				position["offset"] = message["offset"]
				fmt.Println(message["route"], body)
			}
		}
		fmt.Fprintln(os.Stderr, "lost:", err)
	}
}
