// Command kitclient is this package as reward-client-kit wants to see it; docs/client-kit.md says what it has to do.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"log"
	"os"
	"strconv"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/protobuf/types/known/durationpb"

	"example.com/rewardservice"
	pb "example.com/rewardservice/rewardservicev1"
)

func main() {
	client, err := rewardservice.NewClient(os.Getenv("REWARD_TARGET"),
		rewardservice.WithKey(os.Getenv("REWARD_KEY")),
		rewardservice.WithBackoff(seconds("REWARD_BACKOFF_SECONDS"), 10*time.Second))
	if err != nil {
		log.Fatal(err)
	}
	err = watch(client)
	var failure *rewardservice.Error
	if errors.As(err, &failure) {
		report(map[string]any{"error": code.Code(failure.Code).String()})
	}
	if err != nil {
		log.Fatal(err)
	}
}

func watch(client *rewardservice.Client) error {
	request := &pb.StreamOrderUpdatesRequest{
		Start:             pb.StreamStart(pb.StreamStart_value["STREAM_START_"+os.Getenv("REWARD_START")]),
		ResumeToken:       os.Getenv("REWARD_RESUME_TOKEN"),
		HeartbeatInterval: durationpb.New(seconds("REWARD_HEARTBEAT_SECONDS")),
	}
	if ids := os.Getenv("REWARD_ORDER_IDS"); ids != "" {
		request.OrderIds = strings.Split(ids, ",")
	}
	for event, err := range client.Watch(context.Background(), request) {
		if err != nil {
			return err
		}
		if event.Kind == rewardservice.Reset {
			report(map[string]any{"reset": event.Reason})
		}
		if order := event.Order; order != nil {
			report(map[string]any{"order_id": order.OrderId, "version": order.Version, "state": order.State})
			if order.ClientOrderId == os.Getenv("REWARD_UNTIL") && rewardservice.IsTerminal(order) {
				return nil
			}
		}
	}
	return nil
}

func seconds(variable string) time.Duration {
	value, err := strconv.ParseFloat(os.Getenv(variable), 64)
	if err != nil {
		log.Fatal(variable, ": ", err)
	}
	return time.Duration(value * float64(time.Second))
}

func report(line map[string]any) {
	if err := json.NewEncoder(os.Stdout).Encode(line); err != nil {
		log.Fatal(err)
	}
}
