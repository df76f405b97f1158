package rewardservice_test

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/durationpb"

	"example.com/rewardservice"
	pb "example.com/rewardservice/rewardservicev1"
)

// realService is a client of the running service that REWARD_TEST_TARGET names: one with the sandbox behind it, as
// `make run` starts it. Files of TLS come in REWARD_TEST_CA, REWARD_TEST_CERT and REWARD_TEST_KEY; when the certificate
// says who calls, REWARD_TEST_CERTIFIED is set, and no "dev-key" is shown.
func realService(t *testing.T, key string) *rewardservice.Client {
	t.Helper()
	target := os.Getenv("REWARD_TEST_TARGET")
	if target == "" {
		t.Skip("REWARD_TEST_TARGET names no service")
	}
	var options []rewardservice.Option
	if key != "dev-key" || os.Getenv("REWARD_TEST_CERTIFIED") == "" {
		options = append(options, rewardservice.WithKey(key))
	}
	if ca := os.Getenv("REWARD_TEST_CA"); ca != "" {
		config, err := rewardservice.LoadTLS(ca, os.Getenv("REWARD_TEST_CERT"), os.Getenv("REWARD_TEST_KEY"))
		if err != nil {
			t.Fatal(err)
		}
		options = append(options, rewardservice.WithTLS(config))
	}
	client, err := rewardservice.NewClient(target, options...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	return client
}

func TestServiceOrdersOnceAndDelivers(t *testing.T) {
	client := realService(t, "dev-key")
	limit, err := rewardservice.Yuan("100")
	if err != nil {
		t.Fatal(err)
	}
	request := &pb.CreateOrderRequest{
		ClientOrderId: "go-card", ProductId: "kasushou/card", Quantity: 1, MaxUnitPrice: limit,
		Metadata: map[string]string{"campaign": "七夕"}, Wait: durationpb.New(20 * time.Second), View: rewardservice.ViewFull,
	}
	created, err := client.CreateOrder(t.Context(), request)
	if err != nil || created.Replayed {
		t.Fatal(created, err)
	}
	again, err := client.CreateOrder(t.Context(), request)
	if err != nil || !again.Replayed || again.Order.OrderId != created.Order.OrderId {
		t.Fatal(again, err)
	}
	order, err := client.WaitFor(t.Context(), rewardservice.ClientOrderID("go-card"), rewardservice.ViewDefault)
	if err != nil || !rewardservice.IsTerminal(order) || len(order.Cards) != 1 || order.Cards[0].Secret == "" {
		t.Fatal("no card:", err)
	}
	masked, err := client.GetOrder(t.Context(), rewardservice.OrderID(order.OrderId), rewardservice.ViewDefault)
	if err != nil || !masked.Cards[0].Masked || masked.Cards[0].Secret != "" || masked.Metadata["campaign"] != "七夕" {
		t.Error("not masked:", err)
	}
	updates, err := client.ListOrderUpdates(t.Context(), &pb.ListOrderUpdatesRequest{After: created.ResumeToken})
	if err != nil || len(updates.Updates) > int(order.Version) || updates.More {
		t.Error(err)
	}
}

func TestServiceWaitsForAnOrderThatIsNotThereYet(t *testing.T) {
	client := realService(t, "dev-key")
	short, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	order, err := client.WaitFor(short, rewardservice.ClientOrderID("go-later"), rewardservice.ViewDefault)
	if order != nil || !errors.Is(err, context.DeadlineExceeded) {
		t.Error(order, err)
	}
}

func TestServiceCancels(t *testing.T) {
	client := realService(t, "dev-key")
	request := &pb.CreateOrderRequest{
		ProductId: "dushu/membership", Quantity: 1, Recipient: rewardservice.Phone("+86", "13800138000"),
		Wait: durationpb.New(20 * time.Second),
	}
	created, err := client.CreateOrder(t.Context(), request)
	if err != nil || !rewardservice.IsTerminal(created.Order) {
		t.Fatal(created, err)
	}
	_, err = client.CancelOrder(t.Context(), rewardservice.OrderID(created.Order.OrderId), rewardservice.ViewDefault)
	if !rewardservice.HasReason(err, pb.ErrorReason_ERROR_REASON_ORDER_NOT_CANCELLABLE) {
		t.Error(err)
	}
}

func TestServiceListsPageAfterPage(t *testing.T) {
	client := realService(t, "dev-key")
	for range 3 {
		request := &pb.CreateOrderRequest{ProductId: "kasushou/out-of-stock", Quantity: 1}
		if _, err := client.CreateOrder(t.Context(), request); err != nil {
			t.Fatal(err)
		}
	}
	var ids []string
	for order, err := range client.ListOrders(t.Context(), &pb.ListOrdersRequest{PageSize: 1, ProductId: "kasushou/out-of-stock"}) {
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, order.OrderId)
	}
	slices.Reverse(ids)
	if len(ids) != 3 || !slices.IsSorted(ids) {
		t.Error(ids)
	}
	var products []string
	for product, err := range client.ListProducts(t.Context(), nil) {
		if err != nil {
			t.Fatal(err)
		}
		products = append(products, product.ProductId)
	}
	if len(products) <= 50 || !slices.IsSorted(products) {
		t.Errorf("%d products", len(products))
	}
	product, err := client.GetProduct(t.Context(), "kasushou/card")
	if err != nil || rewardservice.FormatYuan(product.Price) != "98.50" || !product.Orderable {
		t.Error(product, err)
	}
}

func TestServiceErrorsAreTyped(t *testing.T) {
	client := realService(t, "dev-key")
	_, err := client.CreateOrder(t.Context(), &pb.CreateOrderRequest{ProductId: "no/such", Quantity: 1})
	var unknown *rewardservice.Error
	if !errors.As(err, &unknown) || unknown.Code != codes.NotFound || unknown.Reason != "PRODUCT_NOT_FOUND" ||
		unknown.RequestID == "" || len(unknown.ClientOrderID) != 36 {
		t.Errorf("%#v", unknown)
	}
	_, err = client.CreateOrder(t.Context(), &pb.CreateOrderRequest{ClientOrderId: "two words", Quantity: 101})
	var bad *rewardservice.Error
	if !errors.As(err, &bad) || bad.Code != codes.InvalidArgument || bad.Reason != "INVALID_REQUEST" {
		t.Fatalf("%#v", bad)
	}
	var fields []string
	for _, violation := range bad.Violations {
		fields = append(fields, violation.Field)
	}
	if slices.Sort(fields); !slices.Equal(fields, []string{"client_order_id", "product_id", "quantity"}) {
		t.Error(fields)
	}
	_, err = realService(t, "a-wrong-key").GetProduct(t.Context(), "kasushou/card")
	var stranger *rewardservice.Error
	if !errors.As(err, &stranger) || stranger.Code != codes.Unauthenticated || stranger.Reason != "UNAUTHENTICATED" {
		t.Errorf("%#v", stranger)
	}
	for _, err = range realService(t, "a-wrong-key").Watch(t.Context(), nil) {
	}
	if !rewardservice.HasReason(err, pb.ErrorReason_ERROR_REASON_UNAUTHENTICATED) {
		t.Error(err)
	}
}

// Needs REWARD_TEST_TOKENS: one that has expired, and a good one.
func TestTokensMayExpire(t *testing.T) {
	tokens := strings.Fields(os.Getenv("REWARD_TEST_TOKENS"))
	if len(tokens) != 2 {
		t.Skip("REWARD_TEST_TOKENS holds no two tokens")
	}
	target, request := os.Getenv("REWARD_TEST_TARGET"), &pb.StreamOrderUpdatesRequest{}
	for name, c := range map[string]struct {
		option rewardservice.Option
		good   bool
	}{
		"fixed": {rewardservice.WithKey(tokens[0]), false},
		"same":  {rewardservice.WithKeyFunc(rotating(tokens[0])), false},
		"fresh": {rewardservice.WithKeyFunc(rotating(tokens...)), true},
	} {
		t.Run(name, func(t *testing.T) {
			client, err := rewardservice.NewClient(target, c.option)
			if err != nil {
				t.Fatal(err)
			}
			defer client.Close()
			for event, err := range client.Watch(t.Context(), request) {
				if c.good && event.Kind != rewardservice.SnapshotEnd ||
					!c.good && !rewardservice.HasReason(err, pb.ErrorReason_ERROR_REASON_UNAUTHENTICATED) {
					t.Error(event, err)
				}
				break
			}
			// Every call asks, too, and rotating goes on giving the last one.
			_, err = client.GetProduct(t.Context(), "kasushou/card")
			if c.good != (err == nil) {
				t.Error(err)
			}
		})
	}
}
