package rewardservice_test

import (
	"context"
	"errors"
	"log"

	"example.com/rewardservice"
	pb "example.com/rewardservice/rewardservicev1"
)

// What stands in the README besides the quickstart.

func ExampleError() {
	var client *rewardservice.Client
	ctx := context.Background()

	order, err := client.GetOrder(ctx, rewardservice.ClientOrderID("order-4711"), rewardservice.ViewFull)
	var failure *rewardservice.Error
	switch {
	case rewardservice.HasReason(err, pb.ErrorReason_ERROR_REASON_ORDER_NOT_FOUND):
		// decide by the reason; messages are for people
	case errors.As(err, &failure):
		log.Println(failure.Code, failure.Reason, failure.Violations, failure.RequestID)
	}

	_ = order
}

func ExampleClient_Watch() {
	var client *rewardservice.Client
	ctx := context.Background()
	stored := "the token of the last event"

	_ = func() error {
		for event, err := range client.Watch(ctx, &pb.StreamOrderUpdatesRequest{ResumeToken: stored}) {
			if err != nil {
				return err // the context ended, or a person has to mend something
			}
			// apply event.Order, if there is one, and store event.ResumeToken, if there is one, together with it;
			// on a Reset forget stored tokens: the log couldn't be continued, and a snapshot follows
			_ = event
		}
		return nil
	}
}

func ExampleLoadTLS() {
	config, err := rewardservice.LoadTLS("ca.pem", "client.pem", "client-key.pem") // the last two for mutual TLS, else ""
	if err != nil {
		log.Fatal(err)
	}
	client, err := rewardservice.NewClient("rewards.internal:443", rewardservice.WithTLS(config))
	if err != nil {
		log.Fatal(err)
	}
	_ = client.Close()
}

func ExampleWithKeyFunc() {
	var issuer interface {
		Current(ctx context.Context) (string, error)
	}

	token := rewardservice.WithKeyFunc(func(ctx context.Context) (string, error) {
		return issuer.Current(ctx) // yours: keeps a token while it is good, and gets another one in time
	})

	client, err := rewardservice.NewClient("127.0.0.1:50051", token)
	if err != nil {
		log.Fatal(err)
	}
	_ = client.Close()
}
