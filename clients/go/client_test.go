package rewardservice_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"

	"example.com/rewardservice"
	pb "example.com/rewardservice/rewardservicev1"
)

const key = "k3y-of-a-test"

// scripted is a server that answers CreateOrder with one error after the other, and then with OK.
type scripted struct {
	pb.UnimplementedRewardServiceServer
	failures []error
	stream   func(pb.RewardService_StreamOrderUpdatesServer) error

	mutex    sync.Mutex
	requests []*pb.CreateOrderRequest
	keys     []string
}

func (s *scripted) CreateOrder(ctx context.Context, request *pb.CreateOrderRequest) (*pb.CreateOrderResponse, error) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	md, _ := metadata.FromIncomingContext(ctx)
	s.requests = append(s.requests, request)
	s.keys = append(s.keys, md.Get("authorization")...)
	_ = grpc.SetTrailer(ctx, metadata.Pairs("x-request-id", "request-1"))
	if made := len(s.requests); made <= len(s.failures) {
		return nil, s.failures[made-1]
	}
	return &pb.CreateOrderResponse{Order: &pb.Order{ClientOrderId: request.ClientOrderId}}, nil
}

// GetOrder never answers.
func (s *scripted) GetOrder(ctx context.Context, _ *pb.GetOrderRequest) (*pb.GetOrderResponse, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

func (s *scripted) StreamOrderUpdates(
	_ *pb.StreamOrderUpdatesRequest, stream pb.RewardService_StreamOrderUpdatesServer,
) error {
	return s.stream(stream)
}

// serve runs the server and makes a client of it that hardly pauses.
func serve(t *testing.T, s *scripted, options ...rewardservice.Option) *rewardservice.Client {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	pb.RegisterRewardServiceServer(server, s)
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
	options = append([]rewardservice.Option{
		rewardservice.WithKey(key), rewardservice.WithBackoff(time.Millisecond, 4*time.Millisecond),
	}, options...)
	client, err := rewardservice.NewClient(listener.Addr().String(), options...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	return client
}

// failure is an error as the service makes it; without a reason, as something in between makes it.
func failure(code codes.Code, reason string, details ...protoadapt.MessageV1) error {
	st := status.New(code, "it went wrong")
	if reason != "" {
		details = append(details, &errdetails.ErrorInfo{
			Domain: "rewardservice.v1", Reason: reason, Metadata: map[string]string{"fields": "quantity"},
		})
	}
	st, err := st.WithDetails(details...)
	if err != nil {
		panic(err)
	}
	return st.Err()
}

func retryAfter(pause time.Duration) *errdetails.RetryInfo {
	return &errdetails.RetryInfo{RetryDelay: durationpb.New(pause)}
}

func TestAnOrderIsSentAgainUnderTheSameID(t *testing.T) {
	const asked = 30 * time.Millisecond
	server := &scripted{failures: []error{
		failure(codes.Unavailable, ""),
		failure(codes.Canceled, ""),
		failure(codes.Internal, ""),
		failure(codes.ResourceExhausted, "TOO_MANY_CALLS", retryAfter(asked)),
	}}
	begun := time.Now()
	created, err := serve(t, server).CreateOrder(t.Context(), &pb.CreateOrderRequest{ProductId: "p", Quantity: 1})
	if err != nil {
		t.Fatal(err)
	}
	if took := time.Since(begun); took < asked {
		t.Errorf("it was told to wait for %v and came back after %v", asked, took)
	}
	id := created.GetOrder().GetClientOrderId()
	if len(id) != 36 || len(server.requests) != 5 {
		t.Errorf("%d requests with the id %q", len(server.requests), id)
	}
	for i, request := range server.requests {
		if request.GetClientOrderId() != id || server.keys[i] != "Bearer "+key {
			t.Errorf("request %d has the id %q and another key or none", i, request.GetClientOrderId())
		}
	}
}

func TestWhatNoRepeatMendsIsNotRepeated(t *testing.T) {
	for _, hopeless := range []error{
		failure(codes.Internal, "INTERNAL"),
		failure(codes.ResourceExhausted, "MESSAGE_TOO_LARGE"),
		failure(codes.NotFound, "PRODUCT_NOT_FOUND"),
	} {
		server := &scripted{failures: []error{hopeless}}
		_, err := serve(t, server).CreateOrder(t.Context(), &pb.CreateOrderRequest{})
		if status.Code(err) != status.Code(hopeless) || len(server.requests) != 1 {
			t.Errorf("%d requests, then: %v", len(server.requests), err)
		}
	}
}

func TestAnErrorHasEverythingThatTheServerSaid(t *testing.T) {
	bad := &errdetails.BadRequest{FieldViolations: []*errdetails.BadRequest_FieldViolation{
		{Field: "quantity", Description: "must be 1 to 100"},
	}}
	server := &scripted{failures: []error{failure(codes.InvalidArgument, "INVALID_REQUEST", bad, retryAfter(time.Second))}}
	_, err := serve(t, server).CreateOrder(t.Context(), &pb.CreateOrderRequest{ClientOrderId: "mine"})
	var e *rewardservice.Error
	if !errors.As(fmt.Errorf("wrapped: %w", err), &e) {
		t.Fatalf("not an *Error: %v", err)
	}
	if e.Code != codes.InvalidArgument || e.Reason != "INVALID_REQUEST" || e.RetryAfter != time.Second ||
		e.RequestID != "request-1" || e.ClientOrderID != "mine" || e.Metadata["fields"] != "quantity" ||
		len(e.Violations) != 1 || e.Violations[0] != (rewardservice.FieldViolation{Field: "quantity", Description: "must be 1 to 100"}) {
		t.Errorf("%#v", e)
	}
	const text = "it went wrong; quantity: must be 1 to 100 (INVALID_REQUEST, client_order_id mine, request request-1)"
	if err.Error() != text {
		t.Errorf("it says %q", err)
	}
	if !rewardservice.HasReason(err, pb.ErrorReason_ERROR_REASON_INVALID_REQUEST) ||
		rewardservice.HasReason(err, pb.ErrorReason_ERROR_REASON_INTERNAL) || rewardservice.HasReason(nil, 0) {
		t.Error("HasReason is wrong")
	}
}

func TestAContextEndsACall(t *testing.T) {
	client := serve(t, &scripted{})
	short, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, err := client.GetOrder(short, rewardservice.OrderID("x"), rewardservice.ViewDefault)
	if !errors.Is(err, context.DeadlineExceeded) || status.Code(err) != codes.DeadlineExceeded {
		t.Error(err)
	}
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = client.GetOrder(cancelled, rewardservice.OrderID("x"), rewardservice.ViewDefault)
	if !errors.Is(err, context.Canceled) || status.Code(err) != codes.Canceled {
		t.Error(err)
	}
}

func TestWithoutADeadlineTheClientHasOne(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0") // takes connections and never says a word
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	client, err := rewardservice.NewClient(listener.Addr().String(), rewardservice.WithTimeout(50*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if _, err = client.GetProduct(t.Context(), "p"); status.Code(err) != codes.DeadlineExceeded {
		t.Error(err)
	}
}

func TestLeavingTheLoopEndsTheStream(t *testing.T) {
	ended := make(chan struct{})
	client := serve(t, &scripted{stream: func(stream pb.RewardService_StreamOrderUpdatesServer) error {
		defer close(ended)
		_ = stream.Send(heartbeat())
		<-stream.Context().Done()
		return nil
	}})
	request := &pb.StreamOrderUpdatesRequest{Start: pb.StreamStart_STREAM_START_NOW}
	for event, err := range client.Watch(t.Context(), request) {
		if err != nil || event.Kind != rewardservice.Heartbeat || event.ResumeToken != "token" {
			t.Fatal(event, err)
		}
		break
	}
	<-ended
}

func TestAWatchEndsWithItsContextAndWithItsClient(t *testing.T) {
	quiet := func(stream pb.RewardService_StreamOrderUpdatesServer) error {
		_ = stream.Send(heartbeat())
		<-stream.Context().Done()
		return nil
	}
	down := func(pb.RewardService_StreamOrderUpdatesServer) error {
		return failure(codes.Unavailable, "SERVER_DRAINING", retryAfter(time.Hour))
	}
	for name, stream := range map[string]func(pb.RewardService_StreamOrderUpdatesServer) error{"open": quiet, "pausing": down} {
		t.Run(name, func(t *testing.T) {
			reached := make(chan struct{}, 1)
			client := serve(t, &scripted{stream: func(s pb.RewardService_StreamOrderUpdatesServer) error {
				reached <- struct{}{}
				return stream(s)
			}})
			ctx, cancel := context.WithCancel(t.Context())
			go func() { <-reached; cancel() }()
			if err := lastError(client, ctx); !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
			go func() { <-reached; _ = client.Close() }()
			if err := lastError(client, t.Context()); !errors.Is(err, rewardservice.ErrClosed) {
				t.Error(err)
			}
			if _, err := client.GetProduct(t.Context(), "p"); !errors.Is(err, rewardservice.ErrClosed) {
				t.Error(err)
			}
		})
	}
}

func TestAWatchGivesUpWhenItIsTold(t *testing.T) {
	client := serve(t, &scripted{stream: func(pb.RewardService_StreamOrderUpdatesServer) error {
		return failure(codes.Unavailable, "STORE_UNAVAILABLE")
	}})
	err := lastError(client, t.Context(), rewardservice.GiveUpAfter(20*time.Millisecond))
	if !rewardservice.HasReason(err, pb.ErrorReason_ERROR_REASON_STORE_UNAVAILABLE) {
		t.Error(err)
	}
}

func lastError(client *rewardservice.Client, ctx context.Context, options ...rewardservice.WatchOption) error {
	var last error
	for _, last = range client.Watch(ctx, nil, options...) {
	}
	return last
}

func heartbeat() *pb.StreamOrderUpdatesResponse {
	return &pb.StreamOrderUpdatesResponse{Message: &pb.StreamOrderUpdatesResponse_Heartbeat{
		Heartbeat: &pb.Heartbeat{ResumeToken: "token"},
	}}
}

func TestNothingThatIsPrintedHoldsAKeyOrACard(t *testing.T) {
	const number, secret = "CARD-0001", "SECRET-0001"
	client, err := rewardservice.NewClient("rewards.internal:443", rewardservice.WithKey(key))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	event := rewardservice.Event{Kind: rewardservice.Updated, Order: &pb.Order{
		OrderId: "01M", Version: 3, State: pb.OrderState_ORDER_STATE_FULFILLED, Cards: []*pb.Card{{Number: number, Secret: secret}},
	}}
	var printed bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%d", "%x"} {
		fmt.Fprintf(&printed, verb+verb+verb+verb, client, event, &event, []rewardservice.Event{event})
	}
	for _, handler := range []slog.Handler{slog.NewTextHandler(&printed, nil), slog.NewJSONHandler(&printed, nil)} {
		slog.New(handler).Info("seen", "client", client, "event", event, "both", []any{client})
	}
	for _, word := range []string{key, number, secret, fmt.Sprintf("%x", key), fmt.Sprintf("%x", secret)} {
		if strings.Contains(printed.String(), word) {
			t.Errorf("%q is in %s", word, printed.String())
		}
	}
	if event.String() != "Updated(01M v3 FULFILLED)" {
		t.Errorf("an event is printed as %v", event)
	}
}

func TestWhereTheKeyComesFrom(t *testing.T) {
	for _, c := range []struct {
		target, argument, variable string
		ok                         bool
	}{
		{"127.0.0.1:50051", "", "", true},
		{"localhost:50051", "", "", true},
		{"dns:///[::1]:50051", "", "", true},
		{"unix:/run/rewards.sock", "", "", true},
		{"rewards.internal:443", "", "", false},
		{"128.0.0.1:443", "", "", false},
		{"rewards.internal:443", "", "a-key", true},
		{"rewards.internal:443", "a-key", "", true},
		{"rewards.internal:443", "two words", "", false},
		{"rewards.internal:443", "a-key\r\n", "", false},
		{"rewards.internal:443", "clé", "", false},
		{"rewards.internal:443", "", "a\tkey", false},
	} {
		t.Setenv(rewardservice.KeyVariable, c.variable)
		var options []rewardservice.Option
		if c.argument != "" {
			options = append(options, rewardservice.WithKey(c.argument))
		}
		client, err := rewardservice.NewClient(c.target, options...)
		if (err == nil) != c.ok {
			t.Errorf("%+v: %v", c, err)
		}
		if err != nil && c.argument+c.variable != "" && strings.Contains(err.Error(), c.argument+c.variable) {
			t.Errorf("the key is in the error: %v", err)
		}
		if err == nil {
			_ = client.Close()
		}
	}
	if _, err := rewardservice.NewClient("127.0.0.1:1", rewardservice.WithKey("")); err == nil {
		t.Error("an empty key was taken")
	}
}

// rotating gives one key after the other, and from then on the last.
func rotating(keys ...string) func(context.Context) (string, error) {
	var mutex sync.Mutex
	return func(context.Context) (string, error) {
		mutex.Lock()
		defer mutex.Unlock()
		key := keys[0]
		if len(keys) > 1 {
			keys = keys[1:]
		}
		return key, nil
	}
}

func TestEveryCallAsksForTheKey(t *testing.T) {
	server := &scripted{failures: []error{failure(codes.Unavailable, "")}}
	client := serve(t, server, rewardservice.WithKeyFunc(rotating("one", "two", "three")))
	for range 2 {
		if _, err := client.CreateOrder(t.Context(), &pb.CreateOrderRequest{}); err != nil {
			t.Fatal(err)
		}
	}
	if want := []string{"Bearer one", "Bearer two", "Bearer three"}; !slices.Equal(server.keys, want) {
		t.Error(server.keys)
	}
}

func TestWithoutAKeyThereIsNoCall(t *testing.T) {
	broken := errors.New("no issuer")
	for name, c := range map[string]struct {
		ask  func(context.Context) (string, error)
		code codes.Code
		is   error
	}{
		"broken": {func(context.Context) (string, error) { return "", broken }, codes.Unauthenticated, broken},
		"none":   {rotating(""), codes.Unauthenticated, nil},
		"odd":    {rotating("clé\n"), codes.Unauthenticated, nil},
		"coded": {func(context.Context) (string, error) {
			return "", status.Error(codes.PermissionDenied, "no")
		}, codes.PermissionDenied, nil},
		"never": {func(ctx context.Context) (string, error) {
			<-ctx.Done()
			return "", ctx.Err()
		}, codes.DeadlineExceeded, context.DeadlineExceeded},
	} {
		t.Run(name, func(t *testing.T) {
			server := &scripted{}
			client := serve(t, server, rewardservice.WithKeyFunc(c.ask), rewardservice.WithTimeout(20*time.Millisecond))
			_, err := client.CreateOrder(t.Context(), &pb.CreateOrderRequest{})
			var typed *rewardservice.Error
			if !errors.As(err, &typed) || typed.Code != c.code || c.is != nil && !errors.Is(err, c.is) || len(server.requests) != 0 {
				t.Errorf("%d requests, then: %v", len(server.requests), err)
			}
			if strings.Contains(err.Error(), "clé") {
				t.Error("the key is in the error")
			}
		})
	}
}

func TestClosingEndsTheWaitForAKey(t *testing.T) {
	asked := make(chan struct{})
	client := serve(t, &scripted{}, rewardservice.WithKeyFunc(func(ctx context.Context) (string, error) {
		close(asked)
		<-ctx.Done()
		return "", ctx.Err()
	}))
	go func() { <-asked; _ = client.Close() }()
	if err := lastError(client, t.Context()); !errors.Is(err, rewardservice.ErrClosed) {
		t.Error(err)
	}
}

func TestARefusedStreamGoesOnWithAnotherKey(t *testing.T) {
	for name, c := range map[string]struct {
		option rewardservice.Option
		shown  []string
		good   bool
	}{
		"another": {rewardservice.WithKeyFunc(rotating("old", "new")), []string{"Bearer old", "Bearer new"}, true},
		"same":    {rewardservice.WithKeyFunc(rotating("old")), []string{"Bearer old"}, false},
		"worse":   {rewardservice.WithKeyFunc(rotating("old", "odd", "new")), []string{"Bearer old", "Bearer odd"}, false},
		"fixed":   {rewardservice.WithKey("old"), []string{"Bearer old"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			var shown []string
			client := serve(t, &scripted{stream: func(stream pb.RewardService_StreamOrderUpdatesServer) error {
				md, _ := metadata.FromIncomingContext(stream.Context())
				shown = append(shown, md.Get("authorization")...)
				if shown[len(shown)-1] != "Bearer new" {
					if len(shown) == 1 {
						_ = stream.Send(heartbeat())
					}
					return failure(codes.Unauthenticated, "UNAUTHENTICATED")
				}
				return stream.Send(heartbeat())
			}}, c.option)
			request := &pb.StreamOrderUpdatesRequest{Start: pb.StreamStart_STREAM_START_NOW}
			beats, good := 0, false
			for _, err := range client.Watch(t.Context(), request) {
				if err != nil {
					if !rewardservice.HasReason(err, pb.ErrorReason_ERROR_REASON_UNAUTHENTICATED) {
						t.Error(err)
					}
					break
				}
				if beats++; beats == 2 {
					good = true
					break
				}
			}
			if good != c.good || !slices.Equal(shown, c.shown) {
				t.Error(good, shown)
			}
		})
	}
}

func TestYuan(t *testing.T) {
	for text, formatted := range map[string]string{
		"98.50": "98.50", "0.0125": "0.0125", "-3": "-3.00", "-0.5": "-0.50", "7.000000001": "7.000000001",
	} {
		amount, err := rewardservice.Yuan(text)
		if err != nil || amount.GetCurrencyCode() != "CNY" || rewardservice.FormatYuan(amount) != formatted {
			t.Errorf("%s became %v (%v)", text, amount, err)
		}
	}
	for _, text := range []string{"", ".", "1.", ".5", "1,5", "1e3", "--1", "+1", "0.0000000001", "1234567890123456", " 1"} {
		if amount, err := rewardservice.Yuan(text); err == nil {
			t.Errorf("%q became %v", text, amount)
		}
	}
}
