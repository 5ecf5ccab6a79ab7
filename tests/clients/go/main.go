// client ws://127.0.0.1:3010/ws USER CHANNEL: logs in, sends each line of its input, prints what it receives, and misses
// nothing when its connection breaks. It notices by itself when the server is gone, and gives up what is refused for
// good.
package main

import (
	"bufio"
	"context"
	"fmt"
	"log"
	"math/rand/v2"
	"os"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"
	"github.com/coder/websocket/wsjson"
)

const interval, silence, longestPause = 10 * time.Second, 5 * time.Second, 20 * time.Second

type object = map[string]any

// soon ends what takes longer than an answer may take.
func soon(do func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), silence)
	defer cancel()
	return do(ctx)
}

// watch closes a connection on which nobody answers.
func watch(socket *websocket.Conn) {
	for soon(socket.Ping) == nil {
		time.Sleep(interval)
	}
	socket.CloseNow()
}

func main() {
	var position object // of the last push that we received
	var secret any      // proves at the next login that the session is ours, also before the server has noticed the loss
	var current atomic.Pointer[websocket.Conn]
	ask := func(id int, route string, body object) error {
		return soon(func(ctx context.Context) error {
			return wsjson.Write(ctx, current.Load(), object{"id": id, "route": route, "body": body})
		})
	}
	for failures := 0; ; failures++ {
		err := soon(func(ctx context.Context) error {
			socket, _, err := websocket.Dial(ctx, os.Args[1], nil)
			if err == nil {
				socket.SetReadLimit(1 << 20) // a message and its frame
				current.Store(socket)
				go watch(socket)
			}
			return err
		})
		if err == nil {
			login := object{"userId": os.Args[2], "lessonId": os.Args[3], "positions": true, "since": position, "resume": secret}
			err = ask(0, "connector.handler.login", login)
		}
		for err == nil {
			var message object
			err = wsjson.Read(context.Background(), current.Load(), &message)
			body, _ := message["body"].(object)
			if message["id"] == 0.0 && body["resume"] != nil {
				secret = body["resume"]
			}
			switch {
			case message["id"] == 0.0 && body["code"] == 0.0 && position == nil:
				position = body["position"].(object)
				go func() {
					lines := bufio.NewScanner(os.Stdin)
					for lines.Buffer(nil, 1<<20); lines.Scan(); {
						ask(1, "chat.handler.send", object{"content": lines.Text()})
					}
				}()
			case message["id"] == 1.0 && body["code"] == 0.0:
				failures = 0
			case message["id"] == 0.0 && body["retry"] == true:
				time.Sleep(time.Duration(body["retryAfterMs"].(float64)) * time.Millisecond)
				err = fmt.Errorf("refused: %v", body["message"])
			case message["id"] == 0.0 && body["retry"] == false, body["reconnect"] == false:
				log.Fatal("refused for good: ", body)
			case message["id"] == 1.0:
				log.Print("refused: ", body)
			case message["route"] == "onPosition":
				position = body
			case message["route"] != nil && message["offset"] != nil:
				position["offset"] = message["offset"]
				if message["route"] == "onMessage" {
					failures = 0
				}
				fmt.Println(message["route"], body)
			}
		}
		log.Print("lost: ", err)
		if socket := current.Load(); socket != nil {
			socket.CloseNow()
		}
		// A longer pause after each failure, and a random one, because other clients have lost their connections, too.
		longest := min(longestPause, 250*time.Millisecond<<min(failures, 10))
		time.Sleep(longest/2 + rand.N(longest/2))
	}
}
