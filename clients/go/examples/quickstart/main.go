package main

import (
	"context"
	"fmt"
	"log"

	"example.com/rewardservice"
	pb "example.com/rewardservice/rewardservicev1"
)

func main() {
	client, err := rewardservice.NewClient("127.0.0.1:50051", rewardservice.WithKey("dev-key"))
	if err != nil {
		log.Fatal(err)
	}
	order := &pb.CreateOrderRequest{ClientOrderId: "order-4711", ProductId: "kasushou/card", Quantity: 1}
	if _, err := client.CreateOrder(context.Background(), order); err != nil {
		log.Fatal(err)
	}
	for event, err := range client.Watch(context.Background(), rewardservice.UntilTerminal("order-4711")) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(event)
		for _, card := range event.Order.GetCards() {
			fmt.Println(card.Number, card.Secret)
		}
	}
}
